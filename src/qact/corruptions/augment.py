"""Augmentation of whole batches: crop, flip, AugMix; seeded per image, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from qact import checks
from qact.corruptions.apply import checked_index
from qact.corruptions.augmix import augmix
from qact.corruptions.random import Draws
from qact.registry import Entry, Registry

PAD = 4  # pixels at 32: an eighth of the side elsewhere
AUGMENTATIONS = Registry("augmentation", Entry)  # functions of images and of their draws


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
        ValueError: unknown ``name``, or images of another shape or outside [0, 1].
        TypeError: images, seed, epoch or index of another type.

    Example:
        >>> x = torch.rand(4, 3, 32, 32)
        >>> y = augment(x, "crop_flip_augmix", seed=0, epoch=3)
        >>> z = augment(x[2:], "crop_flip_augmix", seed=0, epoch=3, index=torch.tensor([2, 3]))
        >>> torch.equal(y[2:], z)
        True
    """
    entry = AUGMENTATIONS[name]
    _check(images)
    index = checked_index(index, images)
    draws = Draws(seed, f"augment/{name}/{checks.integer('epoch', epoch)}", index)
    return entry.make(images, draws)


def _check(images: Tensor) -> None:
    """Refuse what is no batch of images; any number of channels is moved and mirrored."""
    got = images.dtype if isinstance(images, Tensor) else type(images).__name__
    if not (isinstance(images, Tensor) and (got == torch.uint8 or images.is_floating_point())):
        raise TypeError(f"images must be uint8 or a floating tensor in [0, 1], got {got}")
    if images.dim() != 4:
        raise ValueError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}")
    if images.is_floating_point():
        checks.unit("images", images)


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


@AUGMENTATIONS.register("flip", paper="Krizhevsky et al. 2012, section 4.1")
def flip(images: Tensor, draws: Draws) -> Tensor:
    """Mirror each image left and right with probability 1/2."""
    mirrored = draws.integers(2)[:, None, None, None] == 1
    return torch.where(mirrored, images.flip(3), images)


@AUGMENTATIONS.register("crop_flip", paper="He et al. 2015, arXiv 1512.03385, section 4.2")
def crop_flip(images: Tensor, draws: Draws) -> Tensor:
    """Move by up to an eighth of the side, then mirror."""
    return flip(crop(images, max(1, images.shape[-1] * PAD // 32), draws), draws)


@AUGMENTATIONS.register("crop_flip_augmix", paper="Hendrycks et al. 2019, arXiv 1912.02781")
def crop_flip_augmix(images: Tensor, draws: Draws) -> Tensor:
    """Move and mirror, then mix chains of operations."""
    return augmix(crop_flip(images, draws), draws)


AUGMENTATIONS.register("augmix", paper="Hendrycks et al. 2019, arXiv 1912.02781")(augmix)
AUGMENTATIONS.add("none", lambda images, draws: images, paper="the images as they are")
