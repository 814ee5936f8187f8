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
        TypeError: if ``model`` is not a module. ValueError: if nothing in it can be synchronised,
            or a :class:`qact.LazyQAct` has not seen its first batch; the model is then unchanged.

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
    known = (*KINDS, *KINDS.values())
    found = [layer for layer in layers.values() if type(layer) in known]
    if not found:
        raise ValueError(f"{type(model).__name__} holds no qact.QAct; there is nothing to convert")
    for layer in found:
        layer.__class__ = KINDS.get(type(layer), type(layer))
        layer.process_group = process_group
    return model
