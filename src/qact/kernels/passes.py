"""The five passes that touch the data, in plain PyTorch on any device.

Every pass reads ``z`` as (N, C, L) once. An engine is a set of these five: `qact.kernels.cpu` has
them compiled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qact.rank.grid import PARTS, Grid, power_of_two


def statistics(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Smallest, largest, mean and population standard deviation per channel, each (C,)."""
    low, high = z.amin((0, 2)), z.amax((0, 2))
    # Squares of large values overflow; those of values in units of the largest do not.
    unit = torch.maximum(low.abs(), high.abs())
    unit = torch.where(unit > 0, unit, 1)
    variance, mean = torch.var_mean(z / unit[:, None], (0, 2), correction=0)
    return low, high, mean * unit, variance.sqrt() * unit


def count(z: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Mass and moment of every bin, (C, bins)."""
    cell, place = locate(z, grid)
    # One integer carries both sums, up to 2^27 values a bin: counts above, places below.
    packed = (place.nan_to_num(0.0) * PARTS).round().long() + (1 << 35)
    total = _scatter(packed, cell, grid.bins)
    mass, parts = total >> 35, total & ((1 << 35) - 1)
    return mass.to(z.dtype), parts.to(z.dtype) / PARTS


def extremes(z: Tensor, k: int) -> Tensor:
    """The ``k`` smallest and the ``k`` largest values, sorted, (C, 2 k); filled up by inf."""
    values = z.transpose(0, 1).flatten(1)
    if values.shape[1] <= 2 * k:
        missing = 2 * k - values.shape[1]
        return torch.nn.functional.pad(values.sort(1).values, (0, missing), value=torch.inf)
    ends = [values.topk(k, 1, largest=largest).values for largest in (False, True)]
    return torch.cat([end.sort(1).values for end in ends], 1)


def described(z: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`extremes`, with mean and population standard deviation (C,)."""
    _, _, mean, std = statistics(z)
    return extremes(z, k), mean, std


def interpolate(z: Tensor, table: Tensor, grid: Grid) -> Tensor:
    """Linear interpolation of ``z`` in a table of edge values (C, bins + 1)."""
    cell, place = locate(z, grid)
    index = flat(cell, grid.bins + 1)
    values = table.flatten()
    return torch.lerp(values[index], values[index + 1], place)


def spread(z: Tensor, grad: Tensor, grid: Grid) -> Tensor:
    """The transpose of interpolation: each gradient divided between the edges of its bin.

    Sums run over integers (30 bits of the largest gradient), so that they do not depend on order.
    """
    if grad.numel() == 0:
        return grad.new_zeros(grad.shape[1], grid.bins + 1)
    cell, place = locate(z, grid)
    unit = grad.abs().amax((0, 2)).clamp_min(2.0**-90)[:, None] * 2.0**-30
    whole = _scatter((grad / unit).round().long(), cell, grid.bins)
    right = _scatter((grad * place / unit).round().long(), cell, grid.bins)
    pad = torch.nn.functional.pad
    return (pad(whole - right, (0, 1)) + pad(right, (1, 0))).to(grad.dtype) * unit


def transposed(z: Tensor, grad: Tensor, grid: Grid) -> Tensor:
    """:func:`spread` in sums that autograd can follow, to a second derivative."""
    cell, place = locate(z, grid)
    right = grad * place
    left, right = _scatter(grad - right, cell, grid.bins), _scatter(right, cell, grid.bins)
    pad = torch.nn.functional.pad
    return pad(left, (0, 1)) + pad(right, (1, 0))


def slope(z: Tensor, rise: Tensor, grid: Grid, sided: bool = False) -> Tensor:
    """The derivative at ``z``, from the rise across each bin (C, bins); zero outside the grid.

    A rise is the slope at its bin's middle, so interpolating between middles is second-order.
    ``sided`` continues the line of bins of the same sign: at zero the slope jumps.
    """
    free, place = _free(z, grid)
    cell = free.clamp(0, grid.bins - 1)
    aside = place - 0.5
    toward, aside = aside.nan_to_num(0.0).sign().long(), aside.abs()
    near = (cell + toward).clamp(0, grid.bins - 1)
    if sided:
        zero = -grid.offset[:, None]
        across = (near < zero) != (cell < zero)
        away = (cell - toward).clamp(0, grid.bins - 1)
        away = torch.where((away < zero) == (cell < zero), away, cell)
        near, aside = torch.where(across, away, near), torch.where(across, -aside, aside)
    slopes = (rise / grid.width(rise.dtype)[:, None]).flatten()
    at_cell, at_near = slopes[flat(cell, grid.bins)], slopes[flat(near, grid.bins)]
    return torch.where(free == cell, torch.lerp(at_cell, at_near, aside), 0)


def locate(z: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The bin of each value and its place inside, in [0, 1]; what is not a number has none."""
    free, place = _free(z, grid)
    cell = free.clamp(0, grid.bins - 1)
    place = torch.where(free == cell, place, (free > cell).to(place.dtype))
    return cell, torch.where(torch.isnan(z), z, place)


def _free(z: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Bin and place on the endless grid. Flooring before the shift keeps every sign."""
    scaled = z * power_of_two(-grid.exponent, z.dtype)[:, None]
    floor = scaled.floor()
    cell = floor.nan_to_num(0.0).clamp(-(2.0**62), 2.0**62).long()
    return cell - grid.offset[:, None], scaled - floor


def flat(cell: Tensor, columns: int) -> Tensor:
    """Index into a (C, columns) table, flattened, for cells laid out as (N, C, L)."""
    return cell + torch.arange(cell.shape[1], device=cell.device)[:, None] * columns


def _scatter(values: Tensor, cell: Tensor, bins: int) -> Tensor:
    """Sum of ``values`` (N, C, L) per channel and cell, (C, bins)."""
    channels = cell.shape[1]
    total = torch.zeros(channels * bins, dtype=values.dtype, device=values.device)
    return total.scatter_add(0, flat(cell, bins).flatten(), values.flatten()).view(channels, bins)
