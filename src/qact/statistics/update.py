"""`update_stats`: every stored statistic of a model, read anew from data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qact._compat import AnyStatisticsNorm
from qact.nn.layer import QAct
from qact.surgery import call_all, evaluating


@torch.no_grad()
def update_stats(model: nn.Module, loader: Iterable[Any] | Tensor) -> nn.Module:
    """Read the running statistics of BatchNorms and the contexts of QAct layers anew.

    What `torch.optim.swa_utils.update_bn` does for BatchNorm (it leaves a plain QAct's context to
    its momentum), for all that is stored: statistics are reset and become the mean over the batches
    of one pass. Those layers see their own batches meanwhile, as in training; all else is as in
    ``eval()``, so that dropout does not widen what is measured ("precise" statistics: Wu and
    Johnson 2021, arXiv 2105.07576, section 3). After weights were averaged, pruned or quantised,
    this is how a model gets statistics that are its own.

    Args:
        model: any network, changed in place.
        loader: batches as :func:`qact.record` takes them; labels are not needed.

    Returns:
        ``model``. If anything goes wrong, its statistics are what they were.

    Raises:
        ValueError: nothing in the model keeps statistics, or the loader is empty.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), QAct(8))
        >>> int(update_stats(net, [torch.randn(64, 4), torch.randn(64, 4)])[1].context.batches)
        2
    """
    layers = [module for module in model.modules() if _keeps(module)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} holds no layer that keeps statistics of its input"
        )
    with _restoring(layers), evaluating(model), _averaging(layers):
        if not call_all(model, loader, "loader"):
            raise ValueError("the loader is empty: there is nothing to read statistics from")
    return model


def _keeps(module: nn.Module) -> bool:
    return isinstance(module, QAct) or (
        isinstance(module, AnyStatisticsNorm) and module.running_mean is not None
    )


@contextmanager
def _averaging(layers: list[nn.Module]) -> Iterator[None]:
    """From nothing, the mean over all batches; every momentum comes back."""
    before = [(layer, layer.momentum) for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()  # type: ignore[operator]
            layer.momentum, layer.training = None, True  # type: ignore[assignment]
        yield
    finally:
        for layer, momentum in before:
            layer.momentum = momentum


@contextmanager
def _restoring(layers: list[nn.Module]) -> Iterator[None]:
    """After an error, every buffer is as it was."""
    kept = [{name: t.clone() for name, t in layer.named_buffers()} for layer in layers]
    try:
        yield
    except BaseException:
        for layer, buffers in zip(layers, kept, strict=True):
            for name, tensor in layer.named_buffers():
                tensor.copy_(buffers[name])
        raise
