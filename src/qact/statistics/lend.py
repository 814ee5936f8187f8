"""Contexts at test time: which distribution a trained model measures its inputs against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qact import checks
from qact.adapt.statistics import Mixed, Rule, lending, moments, stored
from qact.nn.layer import MODES, QAct
from qact.surgery import lent

PRIOR = 16.0  # samples that the running statistics of a BatchNorm count for


@contextmanager
def adapting(
    model: nn.Module, context: str = "batch", *, prior: float | None = None, norms: bool = True
) -> Iterator[nn.Module]:
    """Within the block, ``model`` in ``eval()`` reads the given context; it leaves no trace.

    Every :class:`qact.QAct` switches to ``"running"``, ``"batch"`` or ``"mixed"``. With ``norms``,
    every BatchNorm that keeps running statistics does the same: ``"batch"`` normalises by the test
    batch, ``"mixed"`` by its statistics joined to the stored ones, which count as ``prior``
    samples (Schneider et al. 2020, arXiv 2006.16971). So the same call adapts a network that has
    no QAct at all. Blocks nest; the innermost one holds. Not for training: there every layer
    reads its batch anyway.

    Args:
        prior: samples that the stored context counts for in ``"mixed"``; None keeps each layer's
            own (16 for BatchNorm).

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 4), QAct(4))
        >>> _ = model(torch.randn(32, 3))  # training: the contexts follow
        >>> with adapting(model.eval(), context="batch"):
        ...     y = model(torch.randn(16, 3) * 5)
    """
    checks.choice("context", context, MODES)
    if prior is not None:
        checks.number("prior", prior, "a positive number of samples", 0)
    with ExitStack() as undo:
        for module in model.modules():
            if isinstance(module, QAct):
                undo.enter_context(lent(module, "mode", context))
                if prior is not None:
                    undo.enter_context(lent(module, "prior", prior))
            elif norms and isinstance(module, _BatchNorm):
                rule = _rule(context, PRIOR if prior is None else prior)
                undo.enter_context(lending(module, rule))
        yield model


def _rule(context: str, prior: float) -> Rule:
    """The rule for BatchNorms that goes with a context of QAct layers."""
    return {"running": stored, "batch": _constant_batch}.get(context) or Mixed(prior)


def _constant_batch(module: Any, input: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the batch; gradients pass through the values alone."""
    return moments(module, input)
