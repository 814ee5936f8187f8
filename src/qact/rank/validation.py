"""What numbers a stored context can hold: asked before a state from elsewhere is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from qact.rank.grid import whole

AVERAGED = (
    ": contexts on different grids were averaged number by number, which gives no context; average "
    "parameters alone (as AveragedModel does with use_buffers=False) and read the contexts anew "
    "with qact.update_stats(model, loader)"
)


def complaints(state: Mapping[str, Any], prefix: str, own: Mapping[str, Tensor]) -> list[str]:
    """Why ``state`` can't replace ``own``: nothing if it can, or if names are missing from it."""
    found = list(_each(state, prefix, own))
    mass, moment = (state.get(prefix + name) for name in ("mass", "moment"))
    if found or mass is None or moment is None or mass.is_meta or moment.is_meta:
        return found
    if _overfull(mass, moment):
        found.append(f"{prefix}moment exceeds {prefix}mass, which no context can have")
    return found


def _each(state: Mapping[str, Any], prefix: str, own: Mapping[str, Tensor]) -> Iterator[str]:
    for name, tensor in own.items():
        value = state.get(prefix + name)
        if value is None:
            continue  # reported by torch as a missing key
        if not isinstance(value, Tensor):
            yield f"{prefix}{name} is a {type(value).__name__}, not a tensor"
        elif value.shape != tensor.shape:
            shapes = f"{tuple(value.shape)}, not {tuple(tensor.shape)}"
            yield f"{prefix}{name} has shape {shapes}{_resolution(name, value, tensor)}"
        elif not _plausible(name, value):
            hint = AVERAGED if name in ("exponent", "offset") and value.is_floating_point() else ""
            yield f"{prefix}{name} holds numbers that no context can have{hint}"


def _resolution(name: str, value: Tensor, own: Tensor) -> str:
    """What to do where the numbers of bins alone differ."""
    if name != "mass" or value.shape[:-1] != own.shape[:-1]:
        return ""
    return f": make the layer with bins={value.shape[-1]}, or attach(model, state) its contexts"


def _plausible(name: str, value: Tensor) -> bool:
    if value.is_meta:
        return True  # a shape alone
    if name == "exponent":
        return bool(((value.abs() <= 1022) & whole(value)).all())
    if name == "offset":
        return bool(((value.abs() < 2**58) & whole(value)).all())
    if name == "tails":
        return not bool(torch.isnan(value).any())
    return bool(torch.isfinite(value).all() and (name == "mean" or (value >= 0).all()))


def _overfull(mass: Tensor, moment: Tensor) -> bool:
    """Whether values stand beyond the bins that hold them."""
    return bool((moment > mass * 1.001 + 1e-6).any())
