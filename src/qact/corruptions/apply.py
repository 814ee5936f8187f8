"""Applying a corruption to a batch of images: checked, seeded per image, in pieces."""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from torch import Tensor

from qact import checks
from qact.corruptions.random import Draws
from qact.corruptions.registry import Corruption, CorruptionEntry, known

# Values worked on at a time: the caches of a CPU core hold them; a GPU wants more.
_CHUNK = (1 << 18, 1 << 25)


@torch.no_grad()
def corrupt(
    images: Tensor, name: str, severity: int, *, seed: int = 0, index: Tensor | None = None
) -> Tensor:
    """Corrupt a batch of images as CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C do.

    ``out[i] = round(255 clip(f(images[i], c, r), 0, 1)) / 255`` with ``f`` of the given name, ``c``
    its constants at the severity and the size of the images (:func:`constants`), and random numbers
    ``r`` of (seed, name, severity, index[i]). The originals cut the decimals instead of rounding,
    which darkens by half a level of 255.

    Args:
        images: floating tensor (N, C, H, W) in [0, 1], C = 1 or 3, any device.
        name: one of :func:`corruptions`, or one's own.
        severity: 1 to 5; 0 returns ``images``.
        seed: any integer.
        index: LongTensor (N,), global indices of the images; default 0 .. N - 1. An image's random
            numbers depend on nothing else, so every batch split and order gives the same bits.

    Returns:
        Tensor of the shape, dtype and device of ``images``, values k / 255.

    Raises:
        ValueError: unknown name or severity, shape or value range outside what is said above.
        TypeError: ``images`` or ``index`` of another dtype, or a ``seed`` that is no integer.

    Paper: Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261.

    Example:
        >>> x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> y = corrupt(x, "fog", 3, index=torch.arange(4))
        >>> torch.equal(y[2:], corrupt(x[2:], "fog", 3, index=torch.tensor([2, 3])))
        True
    """
    found = known(name)
    _check_severity(severity)
    return _at(found, int(severity), images, seed, index)


@torch.no_grad()
def corrupt_mnist(
    images: Tensor,
    name: str,
    severity: int | None = None,
    *,
    seed: int = 0,
    index: Tensor | None = None,
) -> Tensor:
    """Corrupt grey digits as MNIST-C does, with its own constants whatever the size.

    Lengths of ``translate``, ``dotted_line`` and ``zigzag`` are those of 28 pixels, scaled to the
    height of the images; widths of blurs are not scaled. ``identity``, ``stripe``, ``dotted_line``,
    ``zigzag`` and ``canny_edges`` have no severities: any from 1 to 5 gives the same.

    Args:
        images: floating tensor (N, 1, H, W) in [0, 1], any device.
        name: one of ``corruptions("mnist")``.
        severity: 1 to 5; None for that of the published files; 0 returns ``images``.
        seed: any integer.
        index: LongTensor (N,), see :func:`corrupt`.

    Returns:
        Tensor of the shape, dtype and device of ``images``, values k / 255.

    Raises:
        ValueError: unknown name or severity, colour images, shape or range as in :func:`corrupt`.
        TypeError: as in :func:`corrupt`.

    Paper: Mu and Gilmer 2019, arXiv 1906.02337.

    Example:
        >>> x = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        >>> corrupt_mnist(x, "zigzag").shape
        torch.Size([4, 1, 28, 28])
    """
    found = known(name, "mnist")
    _check_severity(severity if severity is not None else 1)
    check_images(images)
    if images.shape[1] != 1:
        raise ValueError(f"MNIST-C corrupts grey images (N, 1, H, W), got {tuple(images.shape)}")
    level = found.usual or 1
    if severity is not None and (found.usual or severity == 0):
        level = int(severity)
    return _at(found, level, images, seed, index)


def _at(
    found: CorruptionEntry, severity: int, images: Tensor, seed: int, index: Tensor | None
) -> Tensor:
    """Apply an entry with its own constants and random numbers."""
    check_images(images)
    index = checked_index(index, images)
    if severity == 0 or images.numel() == 0:
        return images
    constant = found.constant(severity, min(images.shape[-2:]))
    return _apply(found.make, constant, f"{found.name}/{severity}", images, seed, index)


def _apply(
    function: Corruption, constant: Any, label: str, images: Tensor, seed: int, index: Tensor
) -> Tensor:
    # Without the strides of the images: passes write flat memory.
    out = torch.empty(images.shape, dtype=images.dtype, device=images.device)
    chunk = max(1, _CHUNK[images.device.type != "cpu"] // images[0].numel())
    parts = images.split(chunk), Draws(seed, label, index).parts(chunk), out.split(chunk)
    for x, draws, to in zip(*parts, strict=True):
        result = function(x.float().contiguous(), constant, draws)
        to.copy_(result.clamp(0, 1).mul_(255).round_().div_(255))
    return out


def _check_severity(severity: int) -> None:
    if not isinstance(severity, Real) or isinstance(severity, bool) or severity not in range(6):
        raise ValueError(f"severity must be an integer from 0 to 5, got {severity!r}")


def check_images(images: Tensor) -> None:
    """Refuse what is no batch of images in [0, 1]."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating tensor in [0, 1], got {got}; use images / 255")
    if images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise ValueError(
            "images must have shape (N, C, H, W) with C = 1 or 3 and H, W >= 1, "
            f"got {tuple(images.shape)}"
        )
    if images.numel() == 0:
        return
    low, high = (v.item() for v in images.aminmax())
    if not (low >= 0 and high <= 1):  # also false for NaN
        checks.unit("images", images)


def checked_index(index: Tensor | None, images: Tensor) -> Tensor:
    """Global indices of the images on their device: as given, or from 0 on."""
    if index is None:
        return torch.arange(len(images), device=images.device)
    if not isinstance(index, Tensor) or index.dtype != torch.int64:
        got = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"index must be a LongTensor of global image indices, got {got}")
    if index.shape != images.shape[:1]:
        raise ValueError(
            f"index must have shape ({len(images)},), one per image, got {tuple(index.shape)}"
        )
    return index.to(images.device)
