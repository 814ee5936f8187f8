"""What processes tell each other: sums, rows of numbers, and values of different number."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def joined_group(process_group: Any) -> Any:
    """The group to synchronise with (None: all processes), or None where there is one alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group = dist.group.WORLD if process_group is None else process_group
    return group if dist.get_world_size(group) > 1 else None


def summed(tensor: Tensor, group: Any) -> Tensor:
    """The sum over all processes, the same on each."""
    total = tensor.contiguous().clone()
    dist.all_reduce(total, group=group)
    return total


def rows(tensor: Tensor, group: Any) -> Tensor:
    """The tensor of every process, (processes, ...)."""
    tensor = tensor.contiguous()
    gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, tensor, group=group)
    return torch.stack(gathered)


def columns(values: Tensor, group: Any) -> tuple[Tensor, int]:
    """The values (C, n) of all processes side by side, (C, N), and where our own begin."""
    sizes = rows(torch.tensor([values.shape[1]], device=values.device), group)[:, 0].tolist()
    padded = values.new_zeros(values.shape[0], max(sizes))
    padded[:, : values.shape[1]] = values
    parts = [part[:, :n] for part, n in zip(rows(padded, group), sizes, strict=True)]
    return torch.cat(parts, 1), sum(sizes[: dist.get_rank(group)])
