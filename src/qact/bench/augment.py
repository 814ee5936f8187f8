"""What happens to training images before the network sees them, by name; a user's own enters here.

An augmentation is a function ``f(images, draw)``: a batch ``(n, C, H, W)`` in [0, 1] and a
generator on the CPU, whose state follows from (seed, epoch, step) alone, give a batch of the same
shape. So a resumed training sees the same images as one that never stopped.

Example:
    >>> def darker(images, draw):
    ...     return images * torch.rand(len(images), 1, 1, 1, generator=draw).to(images)
    >>> _ = register_augmentation("darker", darker)
    >>> from qact.bench import Training
    >>> Training(augmentation="darker").augmentation
    'darker'
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from qact.bench.errors import RecipeError

Augmentation = Callable[[Tensor, torch.Generator], Tensor]

PAD = 4  # pixels on every side, as everywhere for images of 32x32


def crop(images: Tensor, draw: torch.Generator) -> Tensor:
    """Pad with black by 4 pixels and cut a window of the old size, anywhere.

    Example:
        >>> crop(torch.ones(2, 1, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 8, 8])
    """
    count, channels, height, width = images.shape
    top, left = torch.randint(2 * PAD + 1, (2, count), generator=draw).to(images.device)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    every = torch.arange(count, device=images.device)[:, None, None]
    cut = pad(images, (PAD,) * 4).movedim(1, -1)[every, rows[:, :, None], columns[:, None]]
    return cut.movedim(-1, 1)


def flip(images: Tensor, draw: torch.Generator) -> Tensor:
    """Mirror every image with probability 1/2."""
    mirrored = torch.rand(len(images), generator=draw) < 0.5
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)


def crop_flip(images: Tensor, draw: torch.Generator) -> Tensor:
    """:func:`crop`, then :func:`flip`: the usual recipe for natural images, wrong for digits."""
    return flip(crop(images, draw), draw)


AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,
    "crop": crop,
    "crop_flip": crop_flip,
}


def register_augmentation(name: str, augmentation: Augmentation) -> Augmentation:
    """Enter an augmentation for ``training.augmentation``; a name that is taken is refused."""
    if name in AUGMENTATIONS:
        raise RecipeError(f"an augmentation named {name!r} is registered already")
    AUGMENTATIONS[name] = augmentation
    return augmentation
