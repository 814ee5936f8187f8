"""Patching: what one run has at a place, put into another run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qact.taps.block import Changing, Visit
from qact.taps.place import places


def patch(
    model: nn.Module, values: Mapping[str, Tensor], *, along: Tensor | None = None
) -> Changing:
    """Within a block, put values that were read in another run into this one, sample by sample.

    Activation patching (Zhang and Nanda 2023, arXiv 2309.16042): ``a <- a_source``; with ``along``,
    in the span of some directions alone, ``a <- a + V V^T (a_source - a)`` with ``V`` orthonormal
    (Makelov, Lange and Nanda 2023, arXiv 2311.17030). A direction that changes the output need not
    be one that the model uses: part of it may have no effect alone, and part no variation.

    Args:
        model: the model.
        values: by the names of places, in the order in which samples pass: ``tap.read()`` gives it.
        along: one direction (C,) or several (k, C), of any length.

    Raises:
        ValueError: a place is unknown, ``along`` is zero or dependent, or more samples pass than
            were read.

    Example:
        >>> import qact
        >>> net, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3)
        >>> with qact.tap(net, "1") as clean:
        ...     expected = net(x)
        >>> with patch(net, clean):
        ...     net(x + 1).equal(expected)
        True
    """
    found = tuple(place for name in values for place in places(model, name))
    basis = None if along is None else orthonormal(along)

    def change(z: Tensor, visit: Visit) -> Tensor:
        theirs = _rows(values[visit.name], visit)
        if basis is None:
            return theirs
        span = basis.to(z)
        return z + (visit.place.last(theirs) - z) @ span.mT @ span

    return Changing(model, found, change, last=basis is not None)


def _rows(values: Tensor, visit: Visit) -> Tensor:
    if int(visit.index[-1]) >= len(values):
        raise ValueError(
            f"sample {int(visit.index[-1])} passes at {visit.name!r}, where {len(values)} were read"
        )
    return values[visit.index]


def orthonormal(directions: Tensor) -> Tensor:
    """An orthonormal basis (k, C) of the span of ``directions``, (C,) or (k, C), in float64.

    Raises:
        ValueError: they are not finite, or do not span k dimensions.
    """
    rows = torch.atleast_2d(directions.detach().double())
    if not bool(torch.isfinite(rows).all()):
        raise ValueError("the direction holds something that is not finite")
    _, sizes, spanned = torch.linalg.svd(rows, full_matrices=False)
    if float(sizes[-1]) <= float(sizes[0]) * len(sizes) * 1e-12:
        raise ValueError(f"the directions of shape {tuple(directions.shape)} are zero or dependent")
    return spanned
