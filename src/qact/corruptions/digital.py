"""Digital corruptions: brightness, contrast, saturate and pixelate (arXiv 1903.12261)."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from qact.corruptions import linear
from qact.corruptions.random import Draws
from qact.corruptions.registry import HENDRYCKS, register


@register(
    "brightness",
    paper=HENDRYCKS,
    constants={
        "cifar": [0.05, 0.1, 0.15, 0.2, 0.3],
        "tiny_imagenet": [0.1, 0.2, 0.3, 0.4, 0.5],
        "imagenet": [0.1, 0.2, 0.3, 0.4, 0.5],
    },
)
def brightness(x: Tensor, amount: float, draws: Draws) -> Tensor:
    """Value of HSV plus ``amount``; on a grey image that is the pixel plus ``amount``."""
    value = x.amax(1, keepdim=True)
    brighter = (value + amount).clamp_(0, 1)
    # Same hue and saturation: the channels keep their ratios. Black has none and becomes grey.
    return torch.where(value > 0, x / value * brighter, brighter)


@register(
    "contrast",
    paper=HENDRYCKS,
    constants={
        "cifar": [0.75, 0.5, 0.4, 0.3, 0.15],
        "tiny_imagenet": [0.4, 0.3, 0.2, 0.1, 0.05],
        "imagenet": [0.4, 0.3, 0.2, 0.1, 0.05],
    },
)
def contrast(x: Tensor, factor: float, draws: Draws) -> Tensor:
    """``(x - mean) factor + mean`` with the mean of each image and channel."""
    # A sum of whole numbers below 2^53 does not depend on the order in which they are visited.
    total = x.mul(2.0**20).round_().sum((2, 3), keepdim=True, dtype=torch.float64)
    mean = (total / (x.shape[2] * x.shape[3] * 2.0**20)).float()
    return (x - mean).mul_(factor).add_(mean)


@register(
    "saturate",
    paper=HENDRYCKS,
    constants={  # factor, offset
        "cifar": [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
        "tiny_imagenet": [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)],
        "imagenet": [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)],
    },
)
def saturate(x: Tensor, constant: tuple[float, float], draws: Draws) -> Tensor:
    """Saturation of HSV times ``factor`` plus ``offset``.

    A grey pixel of a colour image has hue 0 and turns reddish where ``offset > 0``, as published.
    A grey image (one channel) has no saturation and stays as it is.
    """
    if x.shape[1] == 1:
        return x
    factor, offset = constant
    value, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    spread = value - low
    saturation = torch.where(value > 0, spread / value, 0.0)
    wanted = (saturation * factor + offset).clamp_(0, 1)
    red = x.new_tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1)
    below = torch.where(spread > 0, (value - x) / spread, red)  # 0 at the largest channel
    return value - below * (wanted * value)


def box_matrix(size: int, out: int) -> np.ndarray:
    """Matrix (out, size) of a box resize: the mean of the samples whose centres the box covers."""
    scale = size / out
    reach = max(scale, 1.0) * 0.5
    matrix = np.zeros((out, size))
    for row in range(out):
        centre = (row + 0.5) * scale
        first, last = int(max(centre - reach + 0.5, 0)), int(min(centre + reach + 0.5, size))
        distance = (np.arange(first, last) - centre + 0.5) / max(scale, 1.0)
        inside = (distance > -0.5) & (distance <= 0.5)
        matrix[row, first:last] = inside / max(inside.sum(), 1)
    return matrix


@lru_cache(maxsize=64)
def box(size: int, out: int) -> Tensor:
    """The box resize of ``size`` samples to ``out``, by Pillow's weights of 22 fractional bits."""
    return linear.axis(np.floor(box_matrix(size, out) * 2**22 + 0.5) / 2**22)


@lru_cache(maxsize=64)
def picked(size: int, out: int) -> np.ndarray:
    """Which sample each of ``out`` is: enlarging, a box covers the centre of one sample only."""
    return box_matrix(size, out).argmax(1)


@register(
    "pixelate",
    paper=HENDRYCKS,
    constants={
        "cifar": [0.95, 0.9, 0.85, 0.75, 0.65],
        "tiny_imagenet": [0.9, 0.8, 0.7, 0.6, 0.5],
        "imagenet": [0.6, 0.5, 0.4, 0.3, 0.25],
    },
)
def pixelate(x: Tensor, fraction: float, draws: Draws) -> Tensor:
    """Box resize to ``int(fraction * side)`` pixels and back, bit for bit what Pillow does.

    Pillow shrinks rows, then columns, and rounds to 8 bits, halves upwards, after each.
    """
    h, w = x.shape[-2:]
    rows, columns = max(int(h * fraction), 1), max(int(w * fraction), 1)
    levels = linear.along(None, box(w, columns), x.mul(255).round_()).add_(0.5).floor_()
    levels = linear.along(box(h, rows), None, levels).add_(0.5).floor_().div_(255)
    levels = levels.index_select(2, torch.from_numpy(picked(rows, h)).to(x.device))
    return levels.index_select(3, torch.from_numpy(picked(columns, w)).to(x.device))
