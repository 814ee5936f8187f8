"""Lines drawn over digits, as MNIST-C draws them: soft, 4.6 pixels of 28 wide."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from qact.corruptions.random import Draws

_REACH = 2.3  # half of the width, in pixels of 28
_STEPS = 1 << 14  # of a pixel, in the table of brightness
_BENDS = 10  # slopes of a zigzag: its ends differ by -5 .. 4 rows


def _brightness(distance: np.ndarray) -> np.ndarray:
    """``1 + log(1 - d / 2.3)`` between 0 and 1."""
    inner = np.clip(1 - distance / _REACH, 1e-12, 1)
    return np.clip(np.log(inner) + 1, 0, 1)


@lru_cache(maxsize=4)
def _table(device: torch.device) -> Tensor:
    # Logarithms are looked up: their last bit may depend on the place in a vector register.
    steps = np.arange(int(_REACH * _STEPS) + 2) / _STEPS
    return torch.from_numpy(_brightness(steps)).float().to(device)


def dotted(draws: Draws, h: int, w: int) -> Tensor:
    """A line from the left to the right edge at random heights, two columns of four left out."""
    scale = h / 28
    ends = draws.integers(max(h - 1, 1), 2).double()
    first, last = ends[:, :1, None], ends[:, 1:, None]
    device = draws.key.device
    rows = torch.arange(h, dtype=torch.float64, device=device)[:, None]
    columns = torch.arange(w, dtype=torch.float64, device=device)
    middle = (last - first) / max(w - 1, 1) * columns + first
    step = ((rows - middle).abs_() * (_STEPS / scale)).round_().long()
    table = _table(device)
    line = table[step.clamp_(max=len(table) - 1)]
    # In whole numbers: a quotient rounded below its whole pixel of 28 would end a dot early.
    shown = columns.long() * 28 // h // 2 % 2 == 1
    return line * (shown & (columns < w - 1))


def _corners(slope: float) -> np.ndarray:
    """Corners (column, row) of a zigzag of length and height 2, in pixels of 28, from (2, 0)."""
    theta, along, aside = math.atan(slope), 2.0, 2.0
    length = 23 / math.cos(theta)
    period = 2 * along
    corners, side = [(0.0, 0.0)], 0.0
    for i in range(int((length - along) // period) + 1):
        side = aside if i % 2 == 0 else -aside
        corners.append(((2 * i + 1) * along, side))
    rest = length - period * (length // period)
    if rest:
        corners.append((length, side / (2 * rest)))
    turn = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    return np.array(corners) @ turn.T + (2, 0)


@lru_cache(maxsize=8)
def _zigzags(h: int, w: int, device: torch.device) -> Tensor:
    """For each slope the sum of its lines, (10, 2 h - 1, w); row h - 1 is that of the start."""
    scale = h / 28
    rows, columns = np.arange(1 - h, h)[:, None] / scale, np.arange(w) / scale
    out = np.zeros((_BENDS, 2 * h - 1, w))
    for k in range(_BENDS):
        corners = _corners((k - 5) / 23)
        for (c0, r0), (c1, r1) in pairwise(corners):
            if c0 == c1:
                continue
            line = _brightness(np.abs(rows - (r1 - r0) / (c1 - c0) * (columns - c0) - r0))
            shown = (columns >= math.floor(c0)) & (columns < math.ceil(c1))
            out[k] += line * shown
    return torch.from_numpy(out.clip(0, 1)).float().to(device)


def zigzag(draws: Draws, h: int, w: int) -> Tensor:
    """A zigzag across the image at a random height and slope, (N, h, w)."""
    start, slope = draws.integers(max(h - 1, 1)), draws.integers(_BENDS)
    table = _zigzags(h, w, draws.key.device)
    rows = torch.arange(h, device=table.device) + (h - 1) - start[:, None]
    return table[slope[:, None], rows]
