"""Contexts at test time: which distribution a trained model measures its inputs against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qact import checks
from qact.layer import MODES, QAct
from qact.layout import fold


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
                undo.enter_context(_layer(module, context, prior))
            elif norms and isinstance(module, _BatchNorm):
                undo.enter_context(_norm(module, context, 16.0 if prior is None else prior))
        yield model


@contextmanager
def _layer(module: QAct, context: str, prior: float | None) -> Iterator[None]:
    before = module.mode, module.prior
    module.mode = context
    module.prior = module.prior if prior is None else prior
    try:
        yield
    finally:
        module.mode, module.prior = before


@contextmanager
def _norm(module: _BatchNorm, context: str, prior: float) -> Iterator[None]:
    """Swap the statistics of a BatchNorm for the length of each forward pass."""
    outer = module.__dict__.get("_adapting")
    module.__dict__["_adapting"] = (context, prior)
    hooks = []
    if outer is None:
        hooks.append(module.register_forward_pre_hook(_lend, with_kwargs=True))
        hooks.append(module.register_forward_hook(_return, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        if outer is None:
            del module.__dict__["_adapting"]
        else:
            module.__dict__["_adapting"] = outer


def _lend(module: Any, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
    context, prior = module._adapting
    if module.training or module.running_mean is None or context == "running":
        return
    input = args[0] if args else named["input"]
    z = fold(input.detach(), getattr(module, "dim", 1))
    z = z if z.dtype == torch.float64 else z.float()
    variance, mean = torch.var_mean(z, (0, 2), correction=0)
    if context == "mixed":
        share = input.shape[0] / (input.shape[0] + prior)
        old_mean, old_variance = module.running_mean.to(z.dtype), module.running_var.to(z.dtype)
        gap = mean - old_mean
        variance = share * variance + (1 - share) * old_variance + share * (1 - share) * gap**2
        mean = old_mean + share * gap
    module.__dict__["_lent"] = module.running_mean, module.running_var
    module.running_mean = mean.to(module.running_mean.dtype)
    module.running_var = variance.to(module.running_var.dtype)


def _return(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
    lent = module.__dict__.pop("_lent", None)
    if lent is not None:
        module.running_mean, module.running_var = lent
