"""A new class for a module that keeps its name, attributes, hooks, copies and pickles."""

from __future__ import annotations

import linecache
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn

from qact.surgery.edit import PACKS, Edit, packing

# Blocks of one kind share their class, as they did before.
_MADE: dict[Any, type[nn.Module]] = {}


class Forward:
    """The source of a ``forward`` with the names that it reads: comparable, copied and pickled."""

    def __init__(self, source: str, names: dict[str, Any]) -> None:
        space = {k: import_module(v) if isinstance(v, Home) else v for k, v in names.items()}
        self.source = source
        self.names = {
            k: Home(v.__name__) if isinstance(v, ModuleType) else v for k, v in space.items()
        }
        file = f"<qact.conversion {hash(source):x}>"
        linecache.cache[file] = (len(source), None, source.splitlines(True), file)
        exec(compile(source, file, "exec"), space)
        self.function = space["forward"]

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Forward) and self.source == other.source
        return same and self.names == other.names  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(self.source)

    def __deepcopy__(self, memo: Any) -> Forward:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Forward, (self.source, self.names)


class Home(str):
    """The name of a module; the module itself cannot be pickled."""


Forwards = tuple[Forward, Forward] | None


class Grafted(nn.Module):
    """Marks a class that was made here; ``base`` is what the module was before."""

    base: type[nn.Module]
    forwards: Forwards

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Keep what stands in its places: nn.TransformerDecoderLayer puts F.relu before it."""
        super().__setstate__(state)
        for key in self._modules:
            self.__dict__.pop(key, None)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _blank, (self.base, self.forwards), self.__dict__.copy()


def _blank(base: type[nn.Module], forwards: Forwards) -> nn.Module:
    return object.__new__(grafted(base, forwards))


def grafted(base: type[nn.Module], forwards: Forwards) -> type[nn.Module]:
    """A subclass of ``base`` with these forwards for training and ``eval()``, by the same name.

    None keeps the forward: the copies of the module then keep what was put into it.
    """
    if (base, forwards) not in _MADE:
        _MADE[base, forwards] = _made(base, forwards)
    return _MADE[base, forwards]


def _made(base: type[nn.Module], forwards: Forwards) -> type[nn.Module]:
    body: dict[str, Any] = {"base": base, "forwards": forwards, "__doc__": base.__doc__}
    body |= {"__module__": base.__module__, "__qualname__": base.__qualname__}
    if forwards is None:
        pass
    elif forwards[0] == forwards[1]:
        body["forward"] = forwards[0].function
    else:
        body |= {"_in_training": forwards[0].function, "_in_eval": forwards[1].function}
        body["forward"] = _either
    return type(base.__name__, (Grafted, base), body)


def _either(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self._in_training(*args, **kwargs) if self.training else self._in_eval(*args, **kwargs)


def unfuse(model: nn.Module, owners: set[nn.Module], edit: Edit) -> None:
    """Close the ways of torch round a new part: layers fused and packed, copies with another."""
    for layer in owners:
        if isinstance(layer, nn.TransformerDecoderLayer) and not isinstance(layer, Grafted):
            edit.become(layer, grafted(type(layer), None))
    fused = {m for m in owners if isinstance(m, nn.TransformerEncoderLayer)}
    for layer in fused:
        edit.set(layer, "activation_relu_or_gelu", 0)
    for encoder in packing(model):
        if not fused.isdisjoint(encoder.modules()):
            edit.set(encoder, PACKS, False)
