"""Models inside others: `torch.compile`, DistributedDataParallel, and what must stay closed."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from qact._compat import compiler

# Newer versions of torch have renamed it.
SYNC = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


def inner(model: nn.Module) -> nn.Module:
    """Return the module that was compiled or wrapped."""
    while compiled(model) or isinstance(model, DistributedDataParallel):
        model = model._orig_mod if compiled(model) else model.module  # type: ignore[assignment]
    return model


def compiled(model: nn.Module) -> bool:
    """Whether ``torch.compile`` wraps it; where nobody has imported the compiler, nothing does."""
    dynamo = compiler()
    return dynamo is not None and isinstance(model, dynamo.OptimizedModule)


def wrapper(model: nn.Module) -> Callable[[nn.Module], nn.Module]:
    """What wraps another module as ``model`` is wrapped."""
    if compiled(model):
        below, context = wrapper(model._orig_mod), model.dynamo_ctx  # type: ignore[arg-type]
        return lambda new: type(model)(below(new), context)
    if isinstance(model, DistributedDataParallel):
        return _parallel(model)
    return lambda new: new


def _parallel(model: Any) -> Callable[[nn.Module], nn.Module]:
    below = wrapper(model.module)
    options = {
        "device_ids": model.device_ids,
        "output_device": model.output_device,
        "dim": model.dim,
        SYNC: getattr(model, SYNC),
        "process_group": model.process_group,
        "find_unused_parameters": model.find_unused_parameters,
        "gradient_as_bucket_view": model.gradient_as_bucket_view,
        "static_graph": model.static_graph,
    }
    return lambda new: DistributedDataParallel(below(new), **options)


def check(model: Any, *, in_place: bool) -> None:
    """Refuse what cannot be edited.

    Raises:
        TypeError: ``model`` is no module, is scripted, is sharded, or, in place, distributed.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r} must be a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("a scripted or traced model cannot be converted: convert it before")
    if any(type(m).__name__.startswith(("FSDP", "FullySharded")) for m in model.modules()):
        raise TypeError("a sharded model cannot be converted: convert it before FSDP")
    if in_place and any(isinstance(m, DistributedDataParallel) for m in model.modules()):
        raise TypeError(
            "DistributedDataParallel has its gradient buckets made for the old parameters: convert "
            "model.module before wrapping it, or use qact.convert(model), which wraps anew"
        )
