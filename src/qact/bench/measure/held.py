"""How much memory something keeps: the tensors that can be reached from it, each storage once."""

from __future__ import annotations

import gc
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor


def held(owner: object) -> int:
    """Return the bytes of all tensors that ``owner`` keeps alive, gradients included.

    References are followed as the garbage collector sees them, whatever objects lie between:
    modules, optimisers, memories. Classes and Python modules are not: theirs is everybody's.

    Example:
        >>> import torch
        >>> memory = [torch.zeros(8), {"view": torch.zeros(8)[:1], "again": (torch.zeros(2),)}]
        >>> held(memory)
        72
    """
    sizes: dict[int, int] = {}
    seen: set[int] = set()
    waiting: list[Any] = [owner]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type | ModuleType):
            continue
        seen.add(id(item))
        waiting += _next(item)
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def _next(item: Any) -> list[Any]:
    if isinstance(item, Tensor):
        return [item.grad] if item.is_leaf and item.grad is not None else []
    if isinstance(item, FunctionType):  # but not the globals of its module
        return [item.__closure__, item.__defaults__, item.__kwdefaults__]
    return gc.get_referents(item)
