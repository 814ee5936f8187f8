"""Weather corruptions: snow, frost, fog, brightness and spatter (arXiv 1903.12261)."""

from functools import lru_cache

import torch
from torch import Tensor

from qact.corruptions import linear
from qact.corruptions.blur import motion, zoom_matrix
from qact.corruptions.random import Draws, on_cpu

_GREY = (0.299, 0.587, 0.114)


def grey(x: Tensor) -> Tensor:
    """Luma of (N, 3, H, W), shape (N, 1, H, W); a grey image is its own luma."""
    if x.shape[1] == 1:
        return x
    red, green, blue = (x[:, k : k + 1] * weight for k, weight in enumerate(_GREY))
    return red + green + blue


def brightness(x: Tensor, amount: float, draws: Draws) -> Tensor:
    """Value of HSV plus ``amount``; on a grey image that is the pixel plus ``amount``."""
    value = x.amax(1, keepdim=True)
    brighter = (value + amount).clamp_(0, 1)
    # Same hue and saturation: the channels keep their ratios. Black has none and becomes grey.
    return torch.where(value > 0, x / value * brighter, brighter)


def plasma(draws: Draws, side: int, decay: float, wibble: float = 100.0) -> Tensor:
    """Diamond-square height maps on a torus, each scaled to [0, 1]; shape (N, side, side).

    ``side`` is a power of two. A new height is the mean of its four neighbours plus a uniform
    number of amplitude ``wibble^2``, as published; ``wibble`` is divided by ``decay`` after each
    halving of the step.
    """
    noise = draws.uniform(side, side, low=-1.0, high=1.0)
    if passes := on_cpu(noise, "plasma"):
        return passes.plasma(noise, decay, wibble)
    heights = torch.zeros_like(noise)
    step = side
    while step >= 2:
        half, size = step // 2, wibble * wibble
        corner = heights[:, ::step, ::step]
        total = corner + corner.roll(-1, 1)
        centre = (total + total.roll(-1, 2)) / 4 + noise[:, half::step, half::step] * size
        heights[:, half::step, half::step] = centre
        across = centre + centre.roll(1, 1) + (corner + corner.roll(-1, 2))
        upward = centre + centre.roll(1, 2) + (corner + corner.roll(-1, 1))
        heights[:, ::step, half::step] = across / 4 + noise[:, ::step, half::step] * size
        heights[:, half::step, ::step] = upward / 4 + noise[:, half::step, ::step] * size
        step, wibble = half, wibble / decay
    low, high = heights.amin((1, 2), True), heights.amax((1, 2), True)
    return ((heights - low) / (high - low).clamp(min=1e-12)).clamp_(0, 1)


def side_of(x: Tensor) -> int:
    """The side of the plasma that covers images (N, C, H, W)."""
    return 1 << (max(x.shape[-2:]) - 1).bit_length()


def fog(x: Tensor, constant: tuple[float, float], draws: Draws) -> Tensor:
    """``(x + amount plasma) max(x) / (max(x) + amount)`` with a plasma of roughness ``decay``."""
    amount, decay = constant
    h, w = x.shape[-2:]
    top = x.amax((1, 2, 3), keepdim=True)
    haze = plasma(draws, side_of(x), decay)[:, None, :h, :w] * amount
    return (x + haze) * (top / (top + amount))


# Mean colour and spread of the height of the ice: dark wet glass, white frost (twice as often),
# grey and mixed ice. Chosen so that the mean and the variation of crops agree with those of the
# photographs that the published benchmarks use, which are not shipped here.
_ICE = (
    (0.31, 0.59, 0.65, 0.23),
    (0.79, 0.81, 0.84, 0.27),
    (0.79, 0.81, 0.84, 0.27),
    (0.54, 0.60, 0.65, 0.33),
    (0.44, 0.48, 0.53, 0.50),
)


def ice(x: Tensor, draws: Draws) -> Tensor:
    """A procedural texture of ice for each image of ``x``, of its shape.

    The sum of a plasma (patches of thick and thin ice) and of the ridges of a second, rougher one
    (veins of crystals), in one of five palettes drawn per image.
    """
    h, w = x.shape[-2:]
    patches, ridges = plasma(draws, side_of(x), 1.6), plasma(draws, side_of(x), 1.35)
    height = patches * 0.6 + (1 - (ridges * 2 - 1).abs()) * 0.4 - 0.57
    palette = torch.tensor(_ICE, device=x.device)[draws.integers(len(_ICE))][:, :, None, None]
    shade = draws.uniform(1, 1, 1, low=-0.05, high=0.05)
    texture = palette[:, :3] + shade + height[:, None, :h, :w] * palette[:, 3:]
    texture = texture.clamp_(0, 1)
    return texture if x.shape[1] == 3 else grey(texture)


def frost(x: Tensor, constant: tuple[float, float], draws: Draws) -> Tensor:
    """``a x + b texture``, with :func:`ice` in the place of the published photographs."""
    keep, add = constant
    return x * keep + ice(x, draws) * add


@lru_cache(maxsize=32)
def _zoom(size: int, factor: float) -> linear.Axis:
    return linear.Axis(zoom_matrix(size, factor))


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
