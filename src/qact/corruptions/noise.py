"""Noise corruptions: gaussian, shot, impulse and speckle noise (arXiv 1903.12261)."""

from torch import Tensor

from qact.corruptions.random import Draws
from qact.corruptions.registry import HENDRYCKS, register


@register(
    "gaussian_noise",
    paper=HENDRYCKS,
    constants={
        "cifar": [0.04, 0.06, 0.08, 0.09, 0.10],
        "tiny_imagenet": [0.04, 0.08, 0.12, 0.15, 0.18],
        "imagenet": [0.08, 0.12, 0.18, 0.26, 0.38],
    },
)
def gaussian_noise(x: Tensor, scale: float, draws: Draws) -> Tensor:
    """``x + N(0, scale^2)``, independently for each value."""
    return draws.normal(*x.shape[1:]).mul_(scale).add_(x)


@register(
    "shot_noise",
    paper=HENDRYCKS,
    constants={
        "cifar": [500, 250, 100, 75, 50],
        "tiny_imagenet": [250, 100, 50, 30, 15],
        "imagenet": [60, 25, 12, 5, 3],
    },
)
def shot_noise(x: Tensor, rate: float, draws: Draws) -> Tensor:
    """``Poisson(x rate) / rate``; ``x`` is read on the grid of 8 bits, as the originals read it."""
    return draws.poisson(x.clamp(0, 1).mul_(255).round_().int(), rate).div_(rate)


@register(
    "impulse_noise",
    paper=HENDRYCKS,
    constants={
        "cifar": [0.01, 0.02, 0.03, 0.05, 0.07],
        "tiny_imagenet": [0.01, 0.02, 0.05, 0.08, 0.14],
        "imagenet": [0.03, 0.06, 0.09, 0.17, 0.27],
    },
)
def impulse_noise(x: Tensor, amount: float, draws: Draws) -> Tensor:
    """Salt and pepper: each value becomes 0 or 1 with probability ``amount / 2`` each."""
    u = draws.uniform(*x.shape[1:])
    # Sums and products of masks: a fill by a random mask waits for its branches.
    kept, salt = (u >= amount).float(), (u >= amount / 2).float()
    return (x * kept).add_(salt.sub_(kept))


@register(
    "speckle_noise",
    paper=HENDRYCKS,
    constants={
        "cifar": [0.06, 0.1, 0.12, 0.16, 0.2],
        "tiny_imagenet": [0.15, 0.2, 0.25, 0.3, 0.35],
        "imagenet": [0.15, 0.2, 0.35, 0.45, 0.6],
    },
)
def speckle_noise(x: Tensor, scale: float, draws: Draws) -> Tensor:
    """``x + x N(0, scale^2)``, independently for each value."""
    return draws.normal(*x.shape[1:]).mul_(scale).mul_(x).add_(x)
