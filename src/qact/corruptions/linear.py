"""Linear maps of pixels, exact whatever the order of summation.

Blurs, zooms and resizes are sparse matrices that act on pixels. Values are rounded to multiples of
2^-20 and weights to multiples of 2^-24, so while values stay below 2^8 every product and every
partial sum is a float64 without rounding error: any kernel, thread count, batch split or device
gives the same bits.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

_VALUE, _WEIGHT = 2.0**20, 2.0**24


def axis(dense: np.ndarray) -> Tensor:
    """A matrix (n_out, n_in) along one axis of images, in fixed point, for :func:`along`."""
    rows, columns = np.nonzero(dense)
    return assemble([(rows, columns, dense[rows, columns])], dense.shape)


def assemble(
    parts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], shape: tuple[int, ...]
) -> Tensor:
    """Sum of weights given as (rows, columns, weights), as a sparse fixed-point operator."""
    rows, columns, weights = (np.concatenate(p) for p in zip(*parts, strict=True))
    where = torch.from_numpy(np.stack([rows, columns]).astype(np.int64))
    total = torch.sparse_coo_tensor(
        where, torch.from_numpy(weights.astype(np.float64)), shape, check_invariants=False
    )
    total = total.coalesce()
    return torch.sparse_coo_tensor(
        total.indices(),
        (total.values() * _WEIGHT).round(),
        shape,
        is_coalesced=True,
        check_invariants=False,
    )


def kron(vertical: np.ndarray, horizontal: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and weights of the pixel map that applies one matrix to each axis."""
    (r, s), (p, q) = np.nonzero(vertical), np.nonzero(horizontal)
    rows = r[:, None] * horizontal.shape[0] + p
    columns = s[:, None] * horizontal.shape[1] + q
    weights = vertical[r, s][:, None] * horizontal[p, q]
    return rows.ravel(), columns.ravel(), weights.ravel()


def _fixed(images: Tensor) -> Tensor:
    """Pixels first, values as whole multiples of 2^-20 in float64: (H W, N C)."""
    rows = images.reshape(images.shape[0] * images.shape[1], -1)
    return rows.mul(_VALUE).round_().t().contiguous().double()


def _images(fixed: Tensor, n: int, h: int, w: int) -> Tensor:
    """Inverse of :func:`_fixed` for values that carry the unit of the weights too."""
    return fixed.mul_(1 / (_VALUE * _WEIGHT)).float().t().contiguous().view(n, -1, h, w)


def pixels(matrix: Tensor, images: Tensor) -> Tensor:
    """Apply a (H' W', H W) operator to the pixels of (N, C, H, W) images; H' W' = H W."""
    n, _, h, w = images.shape
    return _images(torch.sparse.mm(matrix.to(images.device), _fixed(images)), n, h, w)


def along(vertical: Tensor | None, horizontal: Tensor | None, images: Tensor) -> Tensor:
    """Apply one matrix to the columns and one to the rows of (N, C, H, W) images.

    None leaves an axis alone. Values are rounded to multiples of 2^-20 in between.
    """
    n, c, h, w = images.shape
    x = _fixed(images)
    if vertical is not None:
        matrix = vertical.to(x.device)
        x = torch.sparse.mm(matrix, x.view(h, -1)).view(-1, n * c)
        h = len(matrix)
        x = x.mul_(1 / _WEIGHT).round_() if horizontal is not None else x
    if horizontal is not None:
        matrix = horizontal.to(x.device)
        x = x.view(h, w, n * c).transpose(0, 1).reshape(w, -1)
        w = len(matrix)
        x = torch.sparse.mm(matrix, x).view(w, h, n * c).transpose(0, 1)
    return _images(x.reshape(h * w, n * c), n, h, w)
