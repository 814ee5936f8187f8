"""Activations that are no modules: functions of torch, however a forward spells them."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Per function of torch: the module that does the same, and its arguments behind the input.
FUNCTIONS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "relu": (nn.ReLU, ()),
    "relu6": (nn.ReLU6, ()),
    "leaky_relu": (nn.LeakyReLU, ("negative_slope",)),
    "elu": (nn.ELU, ("alpha",)),
    "celu": (nn.CELU, ("alpha",)),
    "selu": (nn.SELU, ()),
    "gelu": (nn.GELU, ("approximate",)),
    "silu": (nn.SiLU, ()),
    "mish": (nn.Mish, ()),
    "hardswish": (nn.Hardswish, ()),
    "hardtanh": (nn.Hardtanh, ("min_val", "max_val")),
    "hardsigmoid": (nn.Hardsigmoid, ()),
    "sigmoid": (nn.Sigmoid, ()),
    "tanh": (nn.Tanh, ()),
    "softplus": (nn.Softplus, ("beta", "threshold")),
    "softsign": (nn.Softsign, ()),
    "logsigmoid": (nn.LogSigmoid, ()),
}


def _spellings() -> dict[Any, str]:
    """Every function object of torch that means one of `FUNCTIONS`."""
    found: dict[Any, str] = {}
    for name in FUNCTIONS:
        for home in (F, torch, Tensor):
            for spelling in (name, f"{name}_"):
                if hasattr(home, spelling):
                    found[getattr(home, spelling)] = name
    return found


SPELLINGS = _spellings()


def spelled(function: Any) -> str | None:
    """The name in `FUNCTIONS` that a function, or the name of a tensor's method, stands for."""
    if isinstance(function, str):
        name = function.removesuffix("_")
        return name if name in FUNCTIONS and hasattr(Tensor, function) else None
    try:
        return SPELLINGS.get(function)
    except TypeError:  # not hashable, so none of torch's
        return None


def stand_in(name: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
    """The module that does what ``name(input, *args, **kwargs)`` does; None if there is none.

    >>> stand_in("leaky_relu", (0.2,), {"inplace": True})
    LeakyReLU(negative_slope=0.2)
    """
    make, names = FUNCTIONS[name]
    given = dict(zip((*names, "inplace"), args, strict=False)) | (kwargs or {})
    given.pop("inplace", None)
    plain = all(isinstance(value, int | float | str) for value in given.values())
    return make(**given) if plain and set(given) <= set(names) else None


def overwrites(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call writes its result over its input."""
    name = function if isinstance(function, str) else getattr(function, "__name__", "")
    names = FUNCTIONS[spelled(function) or "relu"][1]
    given = dict(zip((*names, "inplace"), args, strict=False)) | kwargs
    return name.endswith("_") or given.get("inplace") is True


def mentioned(kind: Any) -> frozenset[str]:
    """The names of functions in `FUNCTIONS` that the methods of a class mention."""
    found: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.startswith("torch.nn."):
            break
        for name, method in vars(base).items():
            if isinstance(method, FunctionType) and name != "__init__":
                found |= set(_words(method.__code__))
    return frozenset(word.removesuffix("_") for word in found) & set(FUNCTIONS)


def _words(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _words(constant)
