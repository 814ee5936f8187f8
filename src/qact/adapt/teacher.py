"""A mean teacher: a copy of the model whose parameters follow slowly (arXiv 1703.01780)."""

from __future__ import annotations

import copy

import torch
from torch import nn


def twin(model: nn.Module) -> nn.Module:
    """A copy without gradients."""
    return copy.deepcopy(model).requires_grad_(False)


@torch.no_grad()
def follow_(teacher: nn.Module, student: nn.Module, keep: float) -> None:
    """``teacher <- keep teacher + (1 - keep) student``, parameters only, in place."""
    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
        slow.lerp_(fast, 1 - keep)


@torch.no_grad()
def copy_(teacher: nn.Module, student: nn.Module) -> None:
    """Parameters and buffers of the student, bit for bit."""
    ours = (*teacher.parameters(), *teacher.buffers())
    for slow, fast in zip(ours, (*student.parameters(), *student.buffers()), strict=True):
        slow.copy_(fast)
