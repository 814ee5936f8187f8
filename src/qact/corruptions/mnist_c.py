"""The 15 corruptions of MNIST-C and its identity (Mu and Gilmer 2019, arXiv 1906.02337)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from qact.corruptions import blur, lines, noise, weather
from qact.corruptions.affine import about_centre, warp
from qact.corruptions.edges import canny
from qact.corruptions.glass import swapped
from qact.corruptions.random import Draws
from qact.corruptions.registry import Corruption, register

PAPER = "Mu and Gilmer 2019, arXiv 1906.02337"


def _enter(
    name: str, constants: Sequence[Any] = (None,) * 5, usual: int | None = None
) -> Callable[[Corruption], Corruption]:
    """Register as ``mnist/name``; ``usual`` is the severity of the published files."""
    return register(f"mnist/{name}", paper=PAPER, constants=constants, usual=usual)


_enter("shot_noise", [60, 25, 12, 5, 3], 5)(noise.shot_noise)
_enter("impulse_noise", [0.03, 0.06, 0.09, 0.17, 0.27], 4)(noise.impulse_noise)
_enter("motion_blur", [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)], 1)(blur.motion_blur)


@_enter("identity")
def identity(x: Tensor, constant: None, draws: Draws) -> Tensor:
    """The image as it is."""
    return x


@_enter("glass_blur", [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)], 1)
def glass_blur(x: Tensor, constant: tuple[float, int, int], draws: Draws) -> Tensor:
    """Gaussian blur, about half of the pixels swapped with a neighbour, gaussian blur."""
    sigma, delta, sweeps = constant
    n, _, h, w = x.shape
    x = blur.smooth_levels(x, sigma)
    for _ in range(sweeps):
        x = x.flatten(2).gather(2, swapped(draws, delta, h, w)[:, None]).view(n, 1, h, w)
    return blur.smooth(x, sigma)


def _signs(draws: Draws, count: int) -> Tensor:
    return (draws.integers(2, count) * 2 - 1).double()


def _linear(
    a: Tensor | float, b: Tensor | float, c: Tensor | float, d: Tensor, x: Tensor
) -> Tensor:
    parts = [
        torch.as_tensor(v, dtype=torch.float64, device=x.device).expand(len(x))
        for v in (a, b, c, d)
    ]
    return about_centre(torch.stack(parts, 1).view(-1, 2, 2), *x.shape[2:])


@_enter("shear", [0.2, 0.4, 0.6, 0.8, 1.0], 2)
def shear(x: Tensor, angle: float, draws: Draws) -> Tensor:
    """Shear by an angle to either side; rows are also stretched, by 1 / cos(angle)."""
    sign = _signs(draws, 1)[:, 0]
    rows = torch.full_like(sign, math.cos(angle))
    return warp(x, _linear(1.0, sign * -math.sin(angle), 0.0, rows, x))


@_enter("rotate", [0.2, 0.4, 0.6, 0.8, 1.0], 2)
def rotate(x: Tensor, angle: float, draws: Draws) -> Tensor:
    """Rotation by an angle to either side."""
    sign = _signs(draws, 1)[:, 0]
    cosine = torch.full_like(sign, math.cos(angle))
    sine = sign * math.sin(angle)
    return warp(x, _linear(cosine, -sine, sine, cosine, x))


@_enter("scale", [1 / 0.9, 1 / 0.8, 1 / 0.7, 1 / 0.6, 1 / 0.5], 3)
def scale(x: Tensor, factor: float, draws: Draws) -> Tensor:
    """The image ``factor`` times smaller, on black."""
    size = torch.full((len(x),), factor, dtype=torch.float64, device=x.device)
    return warp(x, _linear(size, 0.0, 0.0, size, x))


@_enter("translate", [1, 2, 3, 4, 5], 3)
def translate(x: Tensor, pixels: float, draws: Draws) -> Tensor:
    """A shift by ``pixels`` of 28 along both axes, to either side each, on black."""
    move = _signs(draws, 2) * (pixels * x.shape[2] / 28)
    matrix = torch.eye(2, 3, dtype=torch.float64, device=x.device).repeat(len(x), 1, 1)
    matrix[:, :, 2] = move
    return warp(x, matrix)


@_enter("stripe")
def stripe(x: Tensor, constant: None, draws: Draws) -> Tensor:
    """The left and the right quarter inverted."""
    w = x.shape[3]
    column = torch.arange(w, device=x.device)
    outer = (column < w // 4) | (column >= w - w // 4)
    return torch.where(outer, 1 - x, x)


@_enter("fog", [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)], 5)
def fog(x: Tensor, constant: tuple[float, float], draws: Draws) -> Tensor:
    """Fog with a corner of a plasma of 256 pixels, as published, whatever the size below that."""
    amount, decay = constant
    h, w = x.shape[2:]
    side = max(256, 1 << (max(h, w) - 1).bit_length())
    top = x.amax((1, 2, 3), keepdim=True)
    parts = draws.parts(4 if x.device.type == "cpu" else 256)
    plasma = torch.cat(
        [weather.plasma(part, side, decay)[:, None, :h, :w].clone() for part in parts]
    )
    haze = plasma * amount
    return (x + haze) * (top / (top + amount))


@_enter(
    "spatter",
    [  # mean, std, sigma, threshold, sigma of the mask
        (0.65, 0.3, 4, 0.69, 0.6),
        (0.65, 0.3, 3, 0.68, 0.6),
        (0.65, 0.3, 2, 0.68, 0.5),
        (0.65, 0.3, 1, 0.65, 1.5),
        (0.67, 0.4, 1, 0.65, 1.5),
    ],
    4,
)
def spatter(x: Tensor, constant: tuple[float, ...], draws: Draws) -> Tensor:
    """Smoothed and thresholded noise as mud that covers."""
    mean, std, sigma, threshold, soft = constant
    liquid = blur.smooth(draws.normal(1, *x.shape[2:]).mul_(std).add_(mean), sigma)
    cover = blur.smooth((liquid > threshold).float(), soft)
    cover = cover * (cover >= 0.8)
    return x * (1 - cover) + 63 / 255 * cover


@_enter("dotted_line")
def dotted_line(x: Tensor, constant: None, draws: Draws) -> Tensor:
    """A dotted line across the image."""
    return x + lines.dotted(draws, *x.shape[2:])[:, None]


@_enter("zigzag")
def zigzag(x: Tensor, constant: None, draws: Draws) -> Tensor:
    """A zigzag across the image, of which every pixel that is not black becomes white.

    The published code adds the line to an image in 0..255 and cuts at 1: so are its files.
    """
    return x * 255 + lines.zigzag(draws, *x.shape[2:])[:, None]


@_enter("canny_edges")
def canny_edges(x: Tensor, constant: None, draws: Draws) -> Tensor:
    """Canny edges, white on black."""
    return canny(x[:, 0])[:, None].float()


@_enter("brightness", [0.1, 0.2, 0.3, 0.4, 0.5], 5)
def brightness(x: Tensor, amount: float, draws: Draws) -> Tensor:
    """The image plus ``amount``."""
    return x + amount
