"""`tap`: read or change what passes named places of any model, for a block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from qact.surgery import Where, inner
from qact.taps.block import Changing
from qact.taps.observe import BINS
from qact.taps.place import Place, Positions, places
from qact.taps.reading import Observing, Pool, Reading


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
        >>> import torch
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
