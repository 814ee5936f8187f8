"""Weather corruptions: snow and fog (arXiv 1903.12261)."""

from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor

from qact.corruptions import linear
from qact.corruptions.blur import motion, zoom_matrix
from qact.corruptions.random import Draws
from qact.corruptions.registry import HENDRYCKS, register

_GREY = (0.299, 0.587, 0.114)


def grey(x: Tensor) -> Tensor:
    """Luma of (N, 3, H, W), shape (N, 1, H, W); a grey image is its own luma."""
    if x.shape[1] == 1:
        return x
    red, green, blue = (x[:, k : k + 1] * weight for k, weight in enumerate(_GREY))
    return red + green + blue


def heights(noise: Tensor, sizes: Iterable[Tensor | float]) -> Tensor:
    """Diamond-square height maps on a torus, from ``noise`` (N, side, side); side a power of two.

    With every halving of the step a new height is the mean of its four neighbours plus its noise
    times the next of ``sizes``, each a number or (N, 1, 1).
    """
    out = torch.zeros_like(noise)
    step = noise.shape[1]
    for size in sizes:
        half = step // 2
        corner = out[:, ::step, ::step]
        total = corner + corner.roll(-1, 1)
        centre = (total + total.roll(-1, 2)) / 4 + noise[:, half::step, half::step] * size
        out[:, half::step, half::step] = centre
        across = centre + centre.roll(1, 1) + (corner + corner.roll(-1, 2))
        upward = centre + centre.roll(1, 2) + (corner + corner.roll(-1, 1))
        out[:, ::step, half::step] = across / 4 + noise[:, ::step, half::step] * size
        out[:, half::step, ::step] = upward / 4 + noise[:, half::step, ::step] * size
        step = half
    return out


def plasma(draws: Draws, side: int, decay: float, wibble: float = 100.0) -> Tensor:
    """Height maps scaled to [0, 1], of shape (N, side, side).

    The noise is uniform of size ``wibble^2``, as published, and ``wibble`` is divided by ``decay``
    with each halving.
    """
    noise, sizes = draws.uniform(side, side, low=-1.0, high=1.0), []
    for _ in range(side.bit_length() - 1):
        sizes.append(wibble * wibble)
        wibble /= decay
    out = heights(noise, sizes)
    low, high = out.amin((1, 2), True), out.amax((1, 2), True)
    return ((out - low) / (high - low).clamp(min=1e-12)).clamp_(0, 1)


def side_of(x: Tensor) -> int:
    """The side of the plasma that covers images (N, C, H, W)."""
    return 1 << (max(x.shape[-2:]) - 1).bit_length()


@register(
    "fog",
    paper=HENDRYCKS,
    constants={  # amount, decay
        "cifar": [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
        "tiny_imagenet": [(0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)],
        "imagenet": [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
    },
)
def fog(x: Tensor, constant: tuple[float, float], draws: Draws) -> Tensor:
    """``(x + amount plasma) max(x) / (max(x) + amount)`` with a plasma of roughness ``decay``."""
    amount, decay = constant
    h, w = x.shape[-2:]
    top = x.amax((1, 2, 3), keepdim=True)
    haze = plasma(draws, side_of(x), decay)[:, None, :h, :w] * amount
    return (x + haze) * (top / (top + amount))


@lru_cache(maxsize=32)
def _zoom(size: int, factor: float) -> Tensor:
    return linear.axis(zoom_matrix(size, factor))


@register(
    "snow",
    paper=HENDRYCKS,
    constants={  # mean, std, zoom, threshold, radius, sigma, blend
        "cifar": [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
        "tiny_imagenet": [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ],
        "imagenet": [
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ],
    },
)
def snow(x: Tensor, constant: tuple[float, ...], draws: Draws) -> Tensor:
    """Flakes of thresholded noise in motion, on an image that loses its colour and contrast."""
    mean, std, factor, threshold, radius, sigma, blend = constant
    h, w = x.shape[-2:]
    flakes = draws.normal(1, h, w).mul_(std).add_(mean)
    if factor != 1:
        flakes = linear.along(_zoom(h, factor), _zoom(w, factor), flakes)
    flakes = flakes.masked_fill_(flakes < threshold, 0).clamp_(0, 1)
    flakes = flakes.mul_(255).floor_().div_(255)
    flakes = motion(flakes, int(radius), sigma, (-135.0, -45.0), draws)
    flakes = flakes.mul_(255).round_().div_(255)
    pale = x * blend + torch.maximum(x, grey(x) * 1.5 + 0.5) * (1 - blend)
    return pale + flakes + flakes.flip(2, 3)
