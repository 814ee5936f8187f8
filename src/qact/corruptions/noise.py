"""Noise corruptions: gaussian, shot, impulse and speckle noise (arXiv 1903.12261)."""

from torch import Tensor

from qact.corruptions.random import Draws


def gaussian_noise(x: Tensor, scale: float, draws: Draws) -> Tensor:
    """``x + N(0, scale^2)``, independently for each value."""
    return draws.normal(*x.shape[1:]).mul_(scale).add_(x)


def shot_noise(x: Tensor, rate: float, draws: Draws) -> Tensor:
    """``Poisson(x rate) / rate``; ``x`` is read on the grid of 8 bits, as the originals read it."""
    return draws.poisson(x.clamp(0, 1).mul_(255).round_().int(), rate).div_(rate)


def impulse_noise(x: Tensor, amount: float, draws: Draws) -> Tensor:
    """Salt and pepper: each value becomes 0 or 1 with probability ``amount / 2`` each."""
    u = draws.uniform(*x.shape[1:])
    # Sums and products of masks: a fill by a random mask waits for its branches.
    kept, salt = (u >= amount).float(), (u >= amount / 2).float()
    return (x * kept).add_(salt.sub_(kept))


def speckle_noise(x: Tensor, scale: float, draws: Draws) -> Tensor:
    """``x + x N(0, scale^2)``, independently for each value."""
    return draws.normal(*x.shape[1:]).mul_(scale).mul_(x).add_(x)


__all__ = ["gaussian_noise", "impulse_noise", "shot_noise", "speckle_noise"]
