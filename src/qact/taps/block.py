"""Blocks: what happens at places of a model while it is entered; a function in the place of values.

Blocks at one place act in the order in which they were entered: the outermost is told what the
module itself has made, and an inner one what the outer ones have made of that. They act in the
thread that entered them, and leave nothing behind.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qact import _compat
from qact.context import Context
from qact.surgery import hooking, tapped
from qact.taps.place import Place, same


@dataclass(frozen=True)
class Visit:
    """One call at one place, as a change is told of it.

    Args:
        place: the place, with its name, module and stored ``context``.
        index: which samples pass, (N,): counted at this place since the block began.
    """

    place: Place
    index: Tensor

    @property
    def name(self) -> str:
        """The name of the module."""
        return self.place.name

    @property
    def context(self) -> Context | None:
        """What the model stores of this place."""
        return self.place.context


class Block(AbstractContextManager[Any]):
    """What is tapped for a block; ``open`` and ``close`` do without one."""

    def __init__(self, model: nn.Module, found: tuple[Place, ...]) -> None:
        self.model, self.places = model, found
        self._hooks: ExitStack | None = None

    def open(self) -> Any:
        """Begin.

        Raises:
            RuntimeError: it has begun already.
        """
        if self._hooks is not None:
            raise RuntimeError("this block is open already; nest two taps instead")
        with ExitStack() as stack:
            stack.enter_context(hooking(self.model))
            for place in self.places:
                told = partial(self._told, place)
                stack.enter_context(tapped(place.module, told, place.side))
            self._hooks = stack.pop_all()
        return self

    def close(self) -> None:
        """End: the model is as it was."""
        hooks, self._hooks = self._hooks, None
        if hooks is not None:
            hooks.close()

    def __enter__(self) -> Any:
        return self.open()

    def __exit__(self, *error: Any) -> None:
        self.close()

    def _told(self, place: Place, z: Tensor) -> Tensor | None:
        raise NotImplementedError


class Changing(Block):
    """A function in the place of what passes."""

    def __init__(
        self, model: nn.Module, found: tuple[Place, ...], function: Any, last: bool = False
    ) -> None:
        super().__init__(model, found)
        if not callable(function):
            raise TypeError(f"function={function!r} must be a function of an activation")
        self._function, self._two, self._last = function, _takes_two(function), last
        self._samples = {place.name: 0 for place in found}

    def open(self) -> Any:
        """Begin, and count samples from 0."""
        self._samples = dict.fromkeys(self._samples, 0)
        return super().open()

    def _told(self, place: Place, z: Tensor) -> Tensor | None:
        moved = place.last(z) if self._last or place.positions is not None else z
        new = self._function(moved, self._visit(place, z)) if self._two else self._function(moved)
        if new is None:
            return None
        if moved is z:
            same(place.name, z, new)
            return new.to(z.dtype)
        return place.put(new, z)

    def _visit(self, place: Place, z: Tensor) -> Visit:
        first = self._samples[place.name]
        if not _compat.in_backward():
            self._samples[place.name] = first + len(z)
        return Visit(place, torch.arange(first, first + len(z), device=z.device))


def _takes_two(function: Any) -> bool:
    """Whether a change wants to be told of the visit."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built in
        return False
    needed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len([p for p in needed if p.default is p.empty]) >= 2
