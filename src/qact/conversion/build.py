"""`to`: a registered name, a class or a factory, as the maker of one fresh layer per site."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from qact.activations import Entry, entry
from qact.conversion import static
from qact.conversion.lazy import Layer
from qact.conversion.sites import Site
from qact.nn.layer import QAct
from qact.nn.lazy import LazyQAct
from qact.nn.normed import NormedQAct

KNOWN = ("num_features", "dim", "device", "dtype", "inplace")
HELP = "give example_inputs, from which it is read"
# The level of a QAct that repeats a function where the context is normal.
LEVELS = {
    "ReLU": "relu",
    "GELU": "gelu",
    "GELUActivation": "gelu",
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "Swish": "silu",
    "SwishMe": "silu",
    "Mish": "mish",
    "MishMe": "mish",
    "ELU": "elu",
    "SELU": "selu",
    "LeakyReLU": "leaky_relu",
    "Hardswish": "hardswish",
    "HardSwish": "hardswish",
    "HardSwishMe": "hardswish",
    "Softplus": "softplus",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}


class Maker:
    """Makes the layer of a site.

    Raises:
        TypeError: ``to`` is none of the known forms, or made no module.
        ValueError: it is not registered, halves its channels, or does not take the options.
    """

    def __init__(self, to: Any, options: dict[str, Any]) -> None:
        if isinstance(to, Layer):
            to, options = to.to, dict(to.options) | options
        known = entry(to) if isinstance(to, str) else to
        if isinstance(known, Entry):
            if known.halves:
                raise ValueError(f"to={known.name!r} halves its channels; it fits no other layer")
            known = known.make
        if isinstance(known, nn.Module) or not callable(known):
            raise TypeError(
                f"to={to!r} must be a name of qact.list_activations(), a module class, or a "
                "function that returns a fresh module"
            )
        self.make: Callable[..., Any] = known
        self.name = to if isinstance(to, str) else getattr(known, "__name__", repr(known))
        self.options = options
        self.takes = _takes(known)

    @property
    def is_quantile(self) -> bool:
        """Whether it makes a QAct, alone or between norms."""
        return isinstance(self.make, type) and issubclass(self.make, QAct | NormedQAct)

    def __call__(self, site: Site, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """A fresh layer for ``site``, in its mode, on its device."""
        if site.uses and not site.uses[0].same_shape:
            raise ValueError(f"{site.name!r} changes the shape of its input: it is no activation")
        named = self._named(site, dtype, device)
        try:
            made = self._lazy(site, named) if not site.uses else self._sized(site, named)
        except TypeError as error:
            raise TypeError(
                f"to={self.name!r} cannot be made for {site.name!r}: {error}"
            ) from error
        if not isinstance(made, nn.Module):
            raise TypeError(f"to={self.name!r} returned {made!r}, not a module")
        if not {"device", "dtype"} <= set(self.takes):
            made = made.to(device=device, dtype=dtype)
        return made.train(site.module.training)

    def _named(self, site: Site, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        dim = site.uses[0].dim if site.uses else (site.hint or static.dim(site))
        named: dict[str, Any] = {"dim": dim, "device": device, "dtype": dtype}
        if self.is_quantile and "levels" in self.takes:
            named["levels"] = LEVELS.get(type(site.module).__name__, "relu")
        return {k: v for k, v in named.items() if k in self.takes} | self.options

    def _sized(self, site: Site, named: dict[str, Any]) -> Any:
        use = site.uses[0]
        if "num_features" in self.takes and "num_features" not in named:
            place = use.dim % len(use.shape)
            if "dim" in self.takes or place == 1:
                return self.make(**named, num_features=use.channels)
            if self.takes["num_features"]:
                raise ValueError(
                    f"to={self.name!r} has its channels at dim 1; those of {site.name!r} are at "
                    f"dim {use.dim} (input of shape {use.shape})"
                )
        rest = [name for name, needed in self.takes.items() if needed and name not in KNOWN]
        free = [name for name in rest if name not in named]
        return self.make(use.channels, **named) if len(free) == 1 else self.make(**named)

    def _lazy(self, site: Site, named: dict[str, Any]) -> Any:
        if self.make is QAct:
            return LazyQAct(**named)
        needed = [name for name, must in self.takes.items() if must and name not in named]
        if needed:
            raise ValueError(f"to={self.name!r} needs {needed[0]} for {site.name!r}: {HELP}")
        return self.make(**named)


def _takes(make: Callable[..., Any]) -> dict[str, bool]:
    """The arguments of ``make`` by name, and whether each must be given.

    A class whose ``__init__`` hands ``**options`` on takes those of the class it is derived from;
    what that one needs it may give itself, all but the channels.
    """
    takes: dict[str, bool] = {}
    for link in make.__mro__ if isinstance(make, type) else (make,):
        try:
            known = inspect.signature(link).parameters.values()
        except (TypeError, ValueError):
            break
        for p in known:
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                needed = p.default is p.empty and (link is make or p.name in KNOWN)
                takes.setdefault(p.name, needed)
        if link is NormedQAct:  # it hands its options on to a layer within
            takes.setdefault("levels", False)
        if not any(p.kind is p.VAR_KEYWORD for p in known):
            break
    return takes


def placed(layer: nn.Module, owner: nn.Module) -> nn.Module:
    """The layer in the mode of ``owner``, and in dtype and on the device of its parameters."""
    found = next((p for p in owner.parameters() if p.is_floating_point()), None)
    layer = layer if found is None else layer.to(device=found.device, dtype=found.dtype)
    return layer.train(owner.training)


def home(site: Site, model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Dtype and device of a new layer: those of the parameters around it."""
    around = (*site.owner.parameters(), *model.parameters())
    found = next((p for p in around if p.is_floating_point()), None)
    device = site.uses[0].device if site.uses else None
    if found is None:
        return torch.get_default_dtype(), device or torch.get_default_device()
    return found.dtype, device or found.device
