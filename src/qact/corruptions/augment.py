"""Augmentation of whole batches: crop, flip, AugMix; seeded per image, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from qact.corruptions.augmix import augmix
from qact.corruptions.random import Draws
from qact.registry import unknown

PAD = 4  # pixels at 32: an eighth of the side elsewhere
AUGMENTATIONS = ("none", "crop_flip", "flip", "augmix", "crop_flip_augmix")


@torch.no_grad()
def augment(
    images: Tensor, name: str, *, seed: int, epoch: int = 0, index: Tensor | None = None
) -> Tensor:
    """Augment a batch of images.

    ``crop_flip`` pads with black by an eighth of the side, cuts the old size out at random and
    mirrors left and right with probability 1/2;
    ``augmix`` is :func:`qact.corruptions.augmix.augmix`,
    after the two in ``crop_flip_augmix``.

    Args:
        images: (N, C, H, W), uint8 or floating in [0, 1], any device.
        name: one of ``AUGMENTATIONS``.
        seed: any integer.
        epoch: another epoch draws other numbers.
        index: LongTensor (N,), global indices of the images; an image's randomness depends on
            (seed, epoch, index) alone, so batches may be cut in any way.

    Returns:
        A tensor of the shape, dtype and device of ``images``.

    Raises:
        ValueError: unknown ``name``.

    Example:
        >>> x = torch.rand(4, 3, 32, 32)
        >>> y = augment(x, "crop_flip_augmix", seed=0, epoch=3)
        >>> z = augment(x[2:], "crop_flip_augmix", seed=0, epoch=3, index=torch.tensor([2, 3]))
        >>> torch.equal(y[2:], z)
        True
    """
    if name not in AUGMENTATIONS:
        raise unknown("augmentation", name, AUGMENTATIONS)
    if index is None:
        index = torch.arange(len(images), device=images.device)
    draws = Draws(seed, f"augment/{name}/{int(epoch)}", index.to(images.device))
    if name.startswith("crop"):
        images = crop(images, max(1, images.shape[-1] * PAD // 32), draws)
    if "flip" in name:
        images = flip(images, draws)
    return augmix(images, draws) if name.endswith("augmix") else images


def crop(images: Tensor, reach: int, draws: Draws) -> Tensor:
    """Move each image by up to ``reach`` pixels along each axis; black comes in."""
    n, c, h, w = images.shape
    move = draws.integers(2 * reach + 1, 2) - reach
    rows = torch.arange(h, device=images.device) + move[:, :1]
    columns = torch.arange(w, device=images.device) + move[:, 1:]
    inside = ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None]
    at = rows.clamp(0, h - 1)[:, :, None] * w + columns.clamp(0, w - 1)[:, None]
    taken = images.flatten(2).gather(2, at.view(n, 1, h * w).expand(n, c, h * w))
    return taken.view_as(images) * inside[:, None].to(images.dtype)


def flip(images: Tensor, draws: Draws) -> Tensor:
    """Mirror each image left and right with probability 1/2."""
    mirrored = draws.integers(2)[:, None, None, None] == 1
    return torch.where(mirrored, images.flip(3), images)
