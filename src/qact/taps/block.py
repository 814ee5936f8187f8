"""`tap`: read or change what passes named places of any model, for a block.

Blocks at one place act in the order in which they were entered: the outermost is told what the
module itself has made, and an inner one what the outer ones have made of that. They act in the
thread that entered them, and leave nothing behind.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qact import _compat, checks
from qact.context import Context
from qact.rank.layout import fold
from qact.surgery import Where, call, evaluating, hooking, inner, tapped
from qact.surgery import batches as batches_of
from qact.taps.observe import BINS, Observer
from qact.taps.place import Place, Positions, places, same

POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda z: z.flatten(1, -2).mean(1) if z.dim() > 2 else z,
    "max": lambda z: z.flatten(1, -2).amax(1) if z.dim() > 2 else z,
}
Pool = str | Callable[[Tensor], Tensor] | None


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


class Named(Block, Mapping[str, Any]):
    """A block that knows something of each place, by its name; entered again, it goes on.

    ``sample`` positions of each sample are drawn by ``seed``; None takes all.
    """

    def __init__(
        self, model: nn.Module, found: tuple[Place, ...], sample: int | None, seed: int
    ) -> None:
        super().__init__(model, found)
        if sample is not None:
            checks.integer("sample", sample, 1)
        self._sample = sample
        self._generator = torch.Generator().manual_seed(seed)

    def run(self, batches: Any) -> None:
        """Enter, and let the model run on batches in ``eval()``, without gradients."""
        with torch.no_grad(), evaluating(self.model), self:
            for batch in batches_of(batches):
                call(self.model, batch)

    def __iter__(self) -> Iterator[str]:
        return (place.name for place in self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, name: object) -> bool:
        return any(place.name == name for place in self.places)

    def _known(self, name: str) -> str:
        if name not in self:
            raise ValueError(f"{name!r} is not tapped; tapped are {', '.join(self)}")
        return name

    def _not_run(self, name: str) -> RuntimeError:
        return RuntimeError(f"{name!r} was not run within the block")

    def _drawn(self, count: int, device: torch.device) -> Tensor | None:
        """Which of so many positions are taken; None means all."""
        if self._sample is None or self._sample >= count:
            return None
        drawn = torch.randperm(count, generator=self._generator)[: self._sample]
        return drawn.sort().values.to(device)


class Reading(Named):
    """Values by the name of their place; several calls are joined along the samples."""

    def __init__(
        self,
        model: nn.Module,
        found: tuple[Place, ...],
        pool: Pool = None,
        sample: int | None = None,
        grad: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(model, found, sample, seed)
        if isinstance(pool, str):
            pool = POOLS[checks.choice("pool", pool, tuple(POOLS))]
        self._pool, self._grad = pool, checks.flag("grad", grad)
        self.clear()

    def clear(self) -> None:
        """Forget what was read so far."""
        self._calls: dict[str, list[Tensor]] = {place.name: [] for place in self.places}

    def _told(self, place: Place, z: Tensor) -> Tensor | None:
        if _compat.in_backward():  # a checkpointed pass is repeated: it was read the first time
            return None
        self._calls[place.name].append(self._taken(place, z if self._grad else z.detach()))
        # What is kept with its gradient must not be changed by an operation in place behind it.
        return z.clone() if self._grad else None

    def _taken(self, place: Place, z: Tensor) -> Tensor:
        if self._pool is None and self._sample is None and place.positions is None:
            return z if self._grad else z.clone()
        moved = place.last(z)
        if self._sample is not None and moved.dim() > 2:
            moved = moved.flatten(1, -2)
            drawn = self._drawn(moved.shape[1], moved.device)
            moved = moved if drawn is None else moved[:, drawn]
        if self._pool is not None:
            return self._pool(moved)
        return moved if self._grad else moved.clone()

    def calls(self, name: str) -> list[Tensor]:
        """The values of each call of a place.

        Raises:
            ValueError: no place has this name. RuntimeError: it was not run.
        """
        found = self._calls[self._known(name)]
        if not found:
            raise self._not_run(name)
        return found

    def __getitem__(self, name: str) -> Tensor:
        calls = self.calls(name)
        if len({call.shape[1:] for call in calls}) > 1:
            shapes = ", ".join(sorted({str(tuple(call.shape)) for call in calls}))
            raise ValueError(
                f"{name!r} was called with different shapes {shapes}; read them pooled, or by "
                f"calls({name!r})"
            )
        return calls[0] if len(calls) == 1 else torch.cat(calls)

    @property
    def value(self) -> Tensor:
        """What was read at the only place."""
        return self[_only(self.places)]


class Observing(Named):
    """Contexts by the name of their place."""

    def __init__(
        self,
        model: nn.Module,
        found: tuple[Place, ...],
        bins: int = BINS,
        sample: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model, found, sample, seed)
        self._bins = checks.integer("bins", bins, 8)
        self.clear()

    def clear(self) -> None:
        """Forget what was counted so far."""
        self._observers = {place.name: Observer(self._bins) for place in self.places}

    def _told(self, place: Place, z: Tensor) -> None:
        if _compat.in_backward():
            return
        if place.positions is not None:
            folded = fold(place.last(z), -1)
        else:
            folded = fold(z, place.channel(z))
        drawn = self._drawn(folded.shape[2], folded.device)
        try:
            self._observers[place.name].add(folded if drawn is None else folded[..., drawn])
        except ValueError as error:
            raise ValueError(f"at {place.name!r}: {error}") from error

    def __getitem__(self, name: str) -> Context:
        found = self._observers[self._known(name)]
        if not found.batches:
            raise self._not_run(name)
        return found.context()


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


class Tap:
    """Named places of a model, to be read or changed; see :func:`tap`."""

    def __init__(self, model: nn.Module, found: tuple[Place, ...]) -> None:
        self.model, self.places = model, found

    @property
    def names(self) -> list[str]:
        """Names of the places."""
        return [place.name for place in self.places]

    def read(
        self, pool: Pool = None, *, sample: int | None = None, grad: bool = False, seed: int = 0
    ) -> Reading:
        """Keep what passes, within a block, as a mapping from names to tensors.

        Args:
            pool: ``"mean"`` or ``"max"`` over the positions, (N, C); or a function of values with
                channels at the end (N, ..., C). None keeps all, as they are.
            sample: at most so many positions of each sample, drawn by ``seed``: (N, sample, C).
            grad: keep the graph, so that a loss can be differentiated by the values.
            seed: of ``sample``.

        Raises:
            ValueError: the pool is unknown, or ``sample`` below 1.
        """
        return Reading(self.model, self.places, pool, sample, grad, seed)

    def observe(self, *, bins: int = BINS, sample: int | None = None, seed: int = 0) -> Observing:
        """Count what passes, within a block, as a mapping from names to :class:`qact.Context`.

        Args:
            bins: resolution of the contexts.
            sample: at most so many positions of each sample, drawn by ``seed``; None counts all.
            seed: of ``sample``.
        """
        return Observing(self.model, self.places, bins, sample, seed)

    def change(self, function: Callable[..., Tensor | None], *, last: bool = False) -> Changing:
        """Let ``function`` of what passes take its place, within a block; None changes nothing.

        A function of two arguments is told of the :class:`Visit` too: the place, its stored
        context, and which samples pass. Where the tap has ``positions``, it is given those alone,
        with channels at the end, (N, ..., C).

        Args:
            function: of a tensor; it keeps the shape. The dtype is put back.
            last: give it channels at the end in every case.
        """
        return Changing(self.model, self.places, function, last)

    def __enter__(self) -> Reading:
        self._open = self.read()
        return self._open.open()

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    def __repr__(self) -> str:
        return f"Tap({type(inner(self.model)).__name__}, {', '.join(self.names)})"


def tap(
    model: nn.Module,
    where: Where = None,
    *,
    side: str = "output",
    dim: int | None = None,
    positions: Positions = None,
) -> Tap:
    """Name places of ``model``, to read or to change what passes there.

    ``with tap(model, where) as seen`` keeps all values; :meth:`Tap.read`, :meth:`Tap.observe` and
    :meth:`Tap.change` are such blocks too, with options. They nest: at one place, an inner block is
    told what the outer ones have made. They act in the thread that entered them alone, end with an
    error too, and leave no hook, flag or buffer changed. Within a block, parts of the model that
    are compiled run as they were written; a function that calls the model and is compiled itself
    has a graph break at every place, and must be compiled within the block.

    Args:
        model: any network, compiled or distributed too.
        where: a module's name, a pattern (``"layer?.*.bn2"``), a class, a predicate ``(module,
            name) -> bool``, or a list of these; None is every norm and QAct layer.
        side: what the module returns (``"output"``) or is given (``"input"``): the first tensor
            in it.
        dim: where channels stand. None asks the module: norms and layers with weights know it.
            Else it is 1, and -1 of three dimensions.
        positions: what of the dimensions between samples and channels is meant: an index, a slice,
            a list, or a tuple of these, one per dimension: ``0`` is the class token of a
            vision transformer.

    Raises:
        ValueError: there is no such place. TypeError: the model has no places.

    Example:
        >>> import qact
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> x = torch.randn(5, 4)
        >>> with qact.tap(net, "1") as seen:
        ...     y = net(x)
        >>> seen["1"].equal(net[:2](x))
        True
        >>> with qact.tap(net, nn.ReLU).change(torch.zeros_like):
        ...     bool((net(x) == net[2].bias).all())
        True
    """
    return Tap(model, places(model, where, side=side, dim=dim, positions=positions))


def _only(found: tuple[Place, ...]) -> str:
    if len(found) > 1:
        names = ", ".join(place.name for place in found)
        raise ValueError(f"several places are tapped: {names}; ask for one by its name")
    return found[0].name


def _takes_two(function: Any) -> bool:
    """Whether a change wants to be told of the visit."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built in
        return False
    needed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len([p for p in needed if p.default is p.empty]) >= 2
