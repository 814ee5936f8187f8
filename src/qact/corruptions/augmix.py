"""AugMix (Hendrycks et al. 2020, arXiv 1912.02781) on a batch, without a loop over images.

Nine operations: autocontrast, equalise, posterise, rotate, solarise, shear and translate along each
axis. Colour, contrast, brightness and sharpness overlap with the test corruptions and are left out,
as its authors do. Four of the nine are tables of 256 levels and five are affine maps, so a step of
a chain is two gathers, whatever operations were drawn. On a CPU each is done for the images that
need it; on a GPU for all, with maps that change nothing, because counting would make it wait.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from qact.corruptions.affine import warp
from qact.corruptions.random import Draws, on_cpu

TABLES = ("autocontrast", "equalize", "posterize", "solarize")
MAPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
OPERATIONS = TABLES + MAPS


def augmix(
    images: Tensor, draws: Draws, *, width: int = 3, depth: int = 3, severity: float = 3.0
) -> Tensor:
    """``(1 - m) x + m sum_k w_k chain_k(x)``, ``w`` of Dirichlet(1, ...) and ``m`` of Beta(1, 1).

    Args:
        images: (N, C, H, W), uint8 or floating in [0, 1].
        draws: the random numbers.
        width: number of chains.
        depth: longest chain; each has 1 to ``depth`` operations.
        severity: levels are uniform in [0.1, ``severity``], on a scale of 10.

    Returns:
        A tensor like ``images``; bytes are rounded.
    """
    levels = (
        images.contiguous()
        if images.dtype == torch.uint8
        else images.mul(255).round_().to(torch.uint8)
    )
    # Spacings of sorted uniforms have the flat Dirichlet distribution.
    cuts = draws.uniform(width - 1).sort(1).values if width > 1 else draws.uniform(1)[:, :0]
    ends = torch.cat([torch.zeros_like(cuts[:, :0].sum(1, True)), cuts], 1)
    weight = torch.cat([cuts, torch.ones_like(ends[:, :1])], 1) - ends
    share = draws.uniform(1, 1, 1)
    mixed = torch.zeros(images.shape, device=images.device, dtype=torch.float32)
    for k in range(width):
        length, chain = draws.integers(depth), levels.clone()
        for step in range(depth):
            operate(chain, draws, severity, step <= length)
        mixed += chain.float() * weight[:, k, None, None, None]
    mixed = levels.float() * (1 - share) + mixed * share
    if images.dtype == torch.uint8:
        return mixed.round_().clamp_(0, 255).to(torch.uint8)
    return mixed.div_(255).clamp_(0, 1).to(images.dtype)


def operate(levels: Tensor, draws: Draws, severity: float, active: Tensor) -> None:
    """One random operation per active image on bytes (N, C, H, W), in place."""
    which = torch.where(active, draws.integers(len(OPERATIONS)), -1)
    level = draws.uniform(low=0.1, high=severity) / 10
    sign = (draws.integers(2) * 2 - 1).double()
    if passes := on_cpu(levels, "augmix"):
        passes.operate(levels, which, level, sign, _turns(*levels.shape[2:]))
        return
    tables, maps = (which >= 0) & (which < len(TABLES)), which >= len(TABLES)
    here = tables.nonzero()[:, 0] if levels.device.type == "cpu" else slice(None)
    levels[here] = tabled(levels[here], which[here], level[here])
    here = maps.nonzero()[:, 0] if levels.device.type == "cpu" else slice(None)
    levels[here] = mapped(levels[here], which[here], level[here], sign[here])


def tabled(levels: Tensor, which: Tensor, level: Tensor) -> Tensor:
    """Apply the table of operation ``which`` (those from 4 on: none) to each image's channels."""
    flat = levels.flatten(2).long()
    grey = torch.arange(256, device=levels.device).expand(*flat.shape[:2], 256)
    kind = which[:, None, None]
    table = torch.where(kind == 0, _autocontrast(flat, grey), grey)
    table = torch.where(kind == 1, _equalize(flat, grey), table)
    dropped = 4 + (level * 4).long()[:, None, None]  # of 8 bits
    table = torch.where(kind == 2, grey >> dropped << dropped, table)
    threshold = 256 - (level * 256).long()[:, None, None]
    table = torch.where((kind == 3) & (grey >= threshold), 255 - grey, table)
    return table.gather(2, flat).to(torch.uint8).view_as(levels)


def _autocontrast(flat: Tensor, grey: Tensor) -> Tensor:
    low, high = flat.amin(2, True), flat.amax(2, True)
    scale = 255.0 / (high - low).clamp(min=1).double()
    stretched = (grey * scale - low * scale).clamp_(0, 255).long()
    return torch.where(high > low, stretched, grey)


def _equalize(flat: Tensor, grey: Tensor) -> Tensor:
    """Pillow's rule: steps of the count without its last level, rounded from half a step on."""
    count = torch.zeros_like(grey).scatter_add(2, flat, torch.ones_like(flat))
    last = count.gather(2, flat.amax(2, True))
    step = (flat.shape[2] - last) // 255
    before = count.cumsum(2) - count
    table = ((before + step // 2) // step.clamp(min=1)).clamp_(max=255)
    return torch.where(step > 0, table, grey)


def mapped(levels: Tensor, which: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Apply the affine map of operation ``which`` (those before 4: none) to each image."""
    matrix = _matrices(which - len(TABLES), level.double(), sign, *levels.shape[2:])
    return warp(levels.float(), matrix).add_(0.5).floor_().clamp_(0, 255).to(torch.uint8)


def _matrices(which: Tensor, level: Tensor, sign: Tensor, h: int, w: int) -> Tensor:
    """Maps (N, 2, 3) of rotate (up to 30 degrees), shears (0.3), translations (a third)."""
    eye = torch.eye(2, 3, dtype=torch.float64, device=level.device).repeat(len(level), 1, 1)
    angle = (level * 30).floor() * sign
    turn = _turns(h, w).to(level.device)[(angle + 30).long().clamp_(0, 60)]
    eye = torch.where((which == 0)[:, None, None], turn, eye)
    for k, (row, column), amount in (
        (1, (0, 1), level * 0.3),
        (2, (1, 0), level * 0.3),
        (3, (0, 2), (level * (w / 3)).floor()),
        (4, (1, 2), (level * (h / 3)).floor()),
    ):
        eye[:, row, column] = torch.where(which == k, amount * sign, eye[:, row, column])
        if k < 3:  # pixels have their places at their middles
            eye[:, row, 2] = torch.where(which == k, amount * sign / 2, eye[:, row, 2])
    return eye


@lru_cache(maxsize=16)
def _turns(h: int, w: int) -> Tensor:
    """Rotations about the centre by -30, ..., 30 whole degrees, (61, 2, 3)."""
    y, x = (h - 1) / 2, (w - 1) / 2
    out = []
    for degrees in range(-30, 31):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        out.append([[c, -s, x - c * x + s * y], [s, c, y - s * x - c * y]])
    return torch.tensor(out, dtype=torch.float64)
