"""What counts as an activation: classes, functions, and layers that have one built in."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# What stands between layers; `where=None` takes these.
HIDDEN = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
)
# What usually bounds a gate or an output; taken when asked for.
GATES = (
    nn.Sigmoid,
    nn.Tanh,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.LogSigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Softshrink,
    nn.Hardshrink,
    nn.Tanhshrink,
    nn.Threshold,
)
FOREIGN = ("timm.layers.activations", "timm.models.layers.activations", "transformers.activations")
FOREIGN_GATES = ("sigmoid", "sigmoidme", "tanh", "hardsigmoid", "hardsigmoidme")
OURS = ("qact.activations.", "qact.nn.layer", "qact.nn.normed", "qact.conversion.lazy")
# Norm and activation in one operation, which cannot be taken apart.
WELDED = ("InplaceAbn", "InPlaceABN", "InPlaceABNSync", "EvoNorm2d", "FilterResponseNormTlu2d")

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


def is_hidden(module: nn.Module) -> bool:
    """Whether ``module`` is an activation that stands between layers."""
    if isinstance(module, HIDDEN):
        return True
    return _foreign(module) and type(module).__name__.lower() not in FOREIGN_GATES


def is_activation(module: nn.Module) -> bool:
    """Whether ``module`` is an activation of torch, timm, transformers or this package."""
    return isinstance(module, HIDDEN + GATES) or _foreign(module) or is_ours(module)


def is_ours(module: nn.Module) -> bool:
    """Whether ``module`` is an activation of this package."""
    return _home(module).startswith(OURS) and type(module).__name__ != "ChannelNorm"


def is_welded(module: nn.Module) -> bool:
    """Whether ``module`` is a norm whose activation cannot be taken out of it."""
    return type(module).__name__.startswith(WELDED)


def _foreign(module: nn.Module) -> bool:
    return _home(module).startswith(FOREIGN)


def _home(module: nn.Module) -> str:
    return type(module).__module__


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
