"""Frost: a made texture of ice blended into the image (arXiv 1903.12261).

The published benchmarks crop photographs, which are not shipped here. The texture that stands for
them has their numbers, fitted by ``benchmarks/frost_texture.py`` to the copies in the package
imagecorruptions: each is a gaussian field with the power spectrum of the photograph's crops, a
cubic that gives it the distribution of the photograph's pixels, and a line through its colours.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from qact.corruptions.random import Draws
from qact.corruptions.registry import HENDRYCKS, register, scale_of
from qact.corruptions.weather import grey, heights, side_of

_PICTURES = (0, 1, 1, 2, 3)  # the second of four is among the five twice

# Mean colour, and the direction along which colours vary.
_COLOURS = (
    ((0.301, 0.581, 0.647), (0.797, 0.478, 0.369)),
    ((0.777, 0.795, 0.831), (0.563, 0.576, 0.594)),
    ((0.561, 0.619, 0.668), (0.569, 0.571, 0.592)),
    ((0.401, 0.446, 0.492), (0.586, 0.579, 0.567)),
)
# Of each picture, shrunk as each benchmark shrinks it: (a, b, c) of the cubic
# a z + b (z^2 - 1) + c z^3, and the sizes of the noise of a constant and of the octaves of a
# diamond-square map, the coarsest first, the finest of single pixels.
_TEXTURES = {
    "cifar": (
        ((0.129, 0.016, -0.001), (0.626, 0.321, 0.783, 0.382, 0.007, 0.612)),
        ((0.128, -0.022, 0.002), (0.0, 0.891, 0.151, 0.353, 0.097, 0.818)),
        ((0.169, -0.003, 0.007), (0.248, 0.717, 0.005, 0.005, 0.005, 0.914)),
        ((0.264, 0.024, -0.003), (0.492, 0.004, 0.004, 0.559, 0.429, 0.837)),
    ),
    "tiny_imagenet": (
        ((0.128, 0.015, -0.002), (0.0, 1.109, 0.582, 0.509, 0.397, 0.007, 0.499)),
        ((0.128, -0.020, 0.001), (0.0, 0.902, 0.415, 0.330, 0.007, 0.672, 0.662)),
        ((0.151, -0.007, 0.006), (0.0, 0.777, 0.005, 0.005, 0.446, 0.294, 0.880)),
        ((0.237, 0.020, -0.002), (0.0, 0.777, 0.061, 0.004, 0.725, 0.600, 0.699)),
    ),
    "imagenet": (
        ((0.126, 0.015, -0.001), (0.0, 1.142, 0.163, 0.541, 0.007, 0.007, 0.664, 0.459)),
        ((0.129, -0.022, 0.002), (0.381, 0.795, 0.007, 0.007, 0.649, 0.007, 0.931, 0.329)),
        ((0.166, -0.004, 0.006), (0.364, 0.539, 0.005, 0.278, 0.244, 0.005, 1.086, 0.498)),
        ((0.268, 0.026, -0.003), (0.48, 0.006, 0.304, 0.461, 0.746, 0.413, 0.762, 0.468)),
    ),
}
_SPREAD = 0.35  # variance of a map whose noise has size 1 in one octave, about


@lru_cache(maxsize=32)
def _table(scale: str, octaves: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Colours (4, 2, 3), cubics (4, 3) and sizes (4, 1 + octaves), for a map of that many octaves.

    Octaves too coarse for the map become part of the constant; those that were not fitted are 0.
    """
    cubics = [cubic for cubic, _ in _TEXTURES[scale]]
    whole = torch.tensor([sizes for _, sizes in _TEXTURES[scale]], dtype=torch.float64)
    constant, found = whole[:, :1], whole[:, 1:]
    kept, left = found[:, max(found.shape[1] - octaves, 0) :], found[:, : -octaves or None]
    left = left if octaves < found.shape[1] else found[:, :0]
    level = (constant.square() + _SPREAD * left.square().sum(1, keepdim=True)).sqrt()
    absent = torch.zeros(len(found), octaves - kept.shape[1], dtype=torch.float64)
    sizes = torch.cat([level, absent, kept], 1).float().to(device)
    colours = torch.tensor(_COLOURS, device=device, dtype=torch.float32)
    return colours, torch.tensor(cubics, device=device, dtype=torch.float32), sizes


def ice(x: Tensor, draws: Draws) -> Tensor:
    """A made texture of ice for each image of ``x``, of its shape, in [0, 1]."""
    h, w = x.shape[-2:]
    side = side_of(x)
    table = _table(scale_of(min(h, w)), side.bit_length() - 1, x.device)
    pictures = torch.tensor(_PICTURES, device=x.device)[draws.integers(len(_PICTURES))]
    colours, cubic, sizes = (part[pictures][..., None, None] for part in table)
    octaves = sizes[:, 1:].unbind(1)
    z = heights(draws.normal(side, side), octaves)[:, None, :h, :w]
    z = z + draws.normal(1, 1, 1) * sizes[:, :1]
    a, b, c = (cubic[:, k : k + 1] for k in range(3))
    along = ((c * z + b) * z + a) * z - b
    texture = (colours[:, 0] + colours[:, 1] * along).clamp_(0, 1)
    return texture if x.shape[1] == 3 else grey(texture)


@register(
    "frost",
    paper=HENDRYCKS,
    constants={  # weight of the image, weight of the texture
        "cifar": [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
        "tiny_imagenet": [(1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)],
        "imagenet": [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
    },
)
def frost(x: Tensor, constant: tuple[float, float], draws: Draws) -> Tensor:
    """``a x + b texture``, with :func:`ice` in the place of the published photographs."""
    keep, add = constant
    return x * keep + ice(x, draws) * add
