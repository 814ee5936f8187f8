"""Blocks that read: values, pooled or drawn, and contexts of them, by the names of places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qact import _compat, checks
from qact.context import Context
from qact.rank.layout import fold
from qact.surgery import batches as batches_of
from qact.surgery import call, evaluating
from qact.taps.block import Block
from qact.taps.observe import BINS, Observer
from qact.taps.place import Place

POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda z: z.flatten(1, -2).mean(1) if z.dim() > 2 else z,
    "max": lambda z: z.flatten(1, -2).amax(1) if z.dim() > 2 else z,
}
Pool = str | Callable[[Tensor], Tensor] | None


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
        self._generator = torch.Generator().manual_seed(checks.integer("seed", seed))

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
        drawn = torch.randperm(count, generator=self._generator, device="cpu")[: self._sample]
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
        if pool is not None and not callable(pool):
            raise TypeError(f"pool={checks.shown(pool)} must be 'mean', 'max', a function or None")
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
            pooled = self._pool(moved)
            if not isinstance(pooled, Tensor) or pooled.shape[:1] != moved.shape[:1]:
                got = f"shape {tuple(pooled.shape)}" if isinstance(pooled, Tensor) else type(pooled)
                raise ValueError(
                    f"the pool at {place.name!r} made {got} of {tuple(moved.shape)}; it returns a "
                    "tensor that begins with the samples"
                )
            return pooled
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


def _only(found: tuple[Place, ...]) -> str:
    if len(found) > 1:
        names = ", ".join(place.name for place in found)
        raise ValueError(f"several places are tapped: {names}; ask for one by its name")
    return found[0].name
