"""Places in a model: a module's output or input, its channels, its positions and its context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.context import Context
from qact.nn.derived import computes
from qact.nn.layer import QAct
from qact.nn.normed import NormedQAct
from qact.recalibrate.sites import NAME
from qact.registry import unknown
from qact.surgery import Where, channels, inner, is_norm, outermost, select
from qact.surgery.tapping import SIDES

MAPS = (2, 4, 5)  # dimensions of a tensor whose channels stand at 1 where nothing else is known
Index = int | slice | Sequence[int] | Tensor
Positions = Index | tuple[Index, ...] | None


@dataclass(frozen=True)
class Place:
    """One place of a model: what a module returns, or what it is given.

    Args:
        name: of the module in ``named_modules()``.
        module: itself.
        side: ``"output"`` or ``"input"``.
        dim: where channels stand; None asks the module and then the tensor.
        positions: which positions are meant, along the dimensions between samples and channels.
    """

    name: str
    module: nn.Module
    side: str = "output"
    dim: int | None = None
    positions: Positions = None

    @property
    def context(self) -> Context | None:
        """What the model stores of this place: a QAct of its input, a recorded layer of its output.

        :func:`qact.record` stores the latter.
        """
        if isinstance(self.module, QAct):
            given = self.side == "input" and computes(self.module, QAct)
            return self.module.context if given else None
        found = getattr(self.module, NAME, None)
        return found if isinstance(found, Context) and self.side == "output" else None

    def channel(self, z: Tensor) -> int:
        """The dimension of ``z`` at which channels stand, from the front."""
        known = channels(self.module)
        if self.dim is not None and not -z.dim() <= self.dim < z.dim():
            raise ValueError(
                f"dim={self.dim} is none of {self.name!r}, whose values have the shape "
                f"{tuple(z.shape)}"
            )
        own = getattr(self.module, "dim", None) if isinstance(self.module, QAct) else None
        dim = next((d for d in (self.dim, own, known and known[1]) if d is not None), None)
        if dim is None:
            dim = 1 if z.dim() in MAPS else -1
        return dim % z.dim() if -z.dim() <= dim < z.dim() else z.dim() - 1

    def last(self, z: Tensor) -> Tensor:
        """``z`` with channels at the end, (N, ..., C), and of the positions those that are meant.

        Raises:
            ValueError: ``z`` has no such positions.
        """
        return self._positioned(z.movedim(self.channel(z), -1))

    def _positioned(self, moved: Tensor) -> Tensor:
        if self.positions is None:
            return moved
        try:
            return moved[self._index(moved)]
        except (IndexError, TypeError) as error:
            raise ValueError(
                f"positions={self.positions!r} do not fit {self.name!r}, whose positions have the "
                f"shape {tuple(moved.shape[1:-1])}"
            ) from error

    def _index(self, moved: Tensor) -> tuple[Any, ...]:
        given = self.positions if isinstance(self.positions, tuple) else (self.positions,)
        if len(given) > moved.dim() - 2:
            raise IndexError
        return (slice(None), *(list(g) if isinstance(g, Sequence) else g for g in given))

    def put(self, new: Tensor, z: Tensor) -> Tensor:
        """What :meth:`last` gives of ``z``, replaced by ``new``, in the layout of ``z``.

        Raises:
            ValueError: ``new`` has another shape.
        """
        moved = z.movedim(self.channel(z), -1)
        if self.positions is None:
            same(self.name, moved, new)
            return new.to(z.dtype).movedim(-1, self.channel(z))
        part = self._positioned(moved)
        same(self.name, part, new)
        moved = moved.clone()
        moved[self._index(moved)] = new.to(z.dtype)
        return moved.movedim(-1, self.channel(z))


def same(name: str, old: Tensor, new: Any) -> None:
    """Refuse what has not the shape of an activation that it replaces."""
    if not isinstance(new, Tensor):
        raise TypeError(f"the change at {name!r} returned {type(new).__name__}; return a tensor")
    if new.shape != old.shape:
        raise ValueError(
            f"the change at {name!r} made {tuple(new.shape)} of {tuple(old.shape)}; a change keeps "
            "the shape"
        )


def places(
    model: nn.Module,
    where: Where = None,
    *,
    side: str = "output",
    dim: int | None = None,
    positions: Positions = None,
) -> tuple[Place, ...]:
    """Return the places of ``model`` that ``where`` names, in the order of ``named_modules``.

    A name is that module, a pattern (``"layer?.*.bn2"``) all that it matches; classes, predicates
    and lists are as everywhere. None is every QAct layer and every norm that is no part of one.
    Compiled and distributed models are opened: names are those of the model inside.

    Raises:
        TypeError: ``model`` is no module, or is scripted. ValueError: there is no such place.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r} must be a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("a scripted or traced model has no places: tap it before")
    checks.choice("side", side, SIDES)
    opened = inner(model)
    if where is None:
        found = list(outermost(opened, _layer))
    else:
        found = select(opened, where)
    if not found:
        raise _no_place(opened, where)
    if dim is not None:
        checks.integer("dim", dim)
    return tuple(Place(name, module, side, dim, positions) for name, module in found)


def _layer(module: nn.Module) -> bool:
    return is_norm(module) or isinstance(module, QAct | NormedQAct)


def _no_place(model: nn.Module, where: Where) -> ValueError:
    kind = type(model).__name__
    if where is None:
        return ValueError(f"{kind} has no norm and no QAct layer; name places with where=")
    names = [name for name, _ in model.named_modules() if name]
    shown = names if len(names) <= 40 else [n for n in names if n.count(".") < 2][:40]
    return unknown("place", where, shown or names, f"in {kind}")
