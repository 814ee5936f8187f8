"""`convert_sync_`: the layers of a model synchronise their contexts from now on."""

from __future__ import annotations

from typing import Any

from torch import nn

from qact.nn.distributed.layer import SyncQAct
from qact.nn.distributed.norm import SyncChannelNorm
from qact.nn.layer import QAct
from qact.nn.lazy import LazyQAct
from qact.nn.normed import ChannelNorm

KINDS: dict[type[nn.Module], type[nn.Module]] = {QAct: SyncQAct, ChannelNorm: SyncChannelNorm}


def _ready(layer: nn.Module) -> bool:
    """Whether a layer synchronises already, or can be made to."""
    return type(layer) in KINDS or isinstance(layer, tuple(KINDS.values()))


def convert_sync_(model: nn.Module, process_group: Any = None) -> nn.Module:
    """Let every :class:`qact.QAct` of ``model`` take its training context from all processes.

    In place, the norms inside :class:`qact.NormedQAct` and ``QAct.paper`` included. Layers stay the
    same objects, with their parameters, contexts and hooks. Other norms are left to
    :meth:`torch.nn.SyncBatchNorm.convert_sync_batchnorm`.

    Args:
        model: any module; it may be a layer itself.
        process_group: with whom to synchronise; None for all processes.

    Returns:
        ``model``.

    Raises:
        TypeError: if ``model`` is not a module, or holds a class derived from ours, which would be
            undone: derive it from :class:`qact.SyncQAct`.
        ValueError: if nothing in it can be synchronised, or a :class:`qact.LazyQAct` has not seen
            its first batch; the model is then unchanged.

    Example:
        >>> type(convert_sync_(nn.Sequential(nn.Linear(4, 8), QAct(8)))[1]).__name__
        'SyncQAct'
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r} must be a torch.nn.Module")
    layers = dict(model.named_modules())
    lazy = [name for name, layer in layers.items() if isinstance(layer, LazyQAct)]
    if lazy:
        raise ValueError(f"{lazy} are LazyQAct without channels yet; run one batch first")
    kinds = QAct, ChannelNorm
    found: dict[str, Any] = {n: layer for n, layer in layers.items() if isinstance(layer, kinds)}
    strange = {n: type(layer).__name__ for n, layer in found.items() if not _ready(layer)}
    if strange:
        raise TypeError(
            f"{strange} are classes of their own, and another class would drop what they add: "
            "derive them from qact.SyncQAct, or qact.nn.distributed.SyncChannelNorm"
        )
    if not found:
        raise ValueError(f"{type(model).__name__} holds no qact.QAct; there is nothing to convert")
    for layer in found.values():
        layer.__class__ = KINDS.get(type(layer), type(layer))
        layer.process_group = process_group
    return model
