"""The corruptions by name, and :func:`corrupt`, which applies one to a batch of images."""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from qact.corruptions import blur, digital, elastic, glass, jpeg, mnist_c, noise, spatter, weather
from qact.corruptions.constants import constants
from qact.corruptions.random import Draws, on_cpu
from qact.registry import unknown

Corruption = Callable[[Tensor, Any, Draws], Tensor]

STANDARD: dict[str, Corruption] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": glass.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": elastic.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": jpeg.jpeg_compression,
}
HOLDOUT: dict[str, Corruption] = {
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": spatter.spatter,
    "saturate": digital.saturate,
}
GROUPS: dict[str, dict[str, Corruption]] = {
    "standard": STANDARD,
    "holdout": HOLDOUT,
    "all": {**STANDARD, **HOLDOUT},
    "mnist": mnist_c.FUNCTIONS,
}


def corruptions(group: str = "standard") -> tuple[str, ...]:
    """Names of the corruptions of CIFAR-10-C, in the order of the paper (arXiv 1903.12261).

    Args:
        group: ``"standard"`` (the 15 of the benchmark), ``"holdout"`` (the 4 for validation),
            ``"all"``, or ``"mnist"`` (MNIST-C's, for grey digits).

    Returns:
        Tuple of names for :func:`corrupt`; of ``"mnist"`` for :func:`corrupt_mnist`.

    Raises:
        ValueError: unknown group.

    Example:
        >>> corruptions("holdout")
        ('speckle_noise', 'gaussian_blur', 'spatter', 'saturate')
    """
    if group not in GROUPS:
        raise ValueError(f"group must be one of {', '.join(map(repr, GROUPS))}, got {group!r}")
    return tuple(GROUPS[group])


def expanded(asked: Sequence[str]) -> list[str]:
    """Return the corruptions of a group that was asked for by its name, or those that were named.

    Example:
        >>> expanded(["holdout"]), expanded(["fog"])
        (['speckle_noise', 'gaussian_blur', 'spatter', 'saturate'], ['fog'])
    """
    group = asked[0] if len(asked) == 1 else ""
    return list(corruptions(group)) if group in ("standard", "holdout", "all") else list(asked)


@torch.no_grad()
def corrupt(
    images: Tensor, name: str, severity: int, *, seed: int = 0, index: Tensor | None = None
) -> Tensor:
    """Corrupt a batch of images as CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C do.

    ``out[i] = round(255 clip(f(images[i], c, r), 0, 1)) / 255`` with ``f`` of the given name, ``c``
    its constants at the severity and the size of the images
    (:mod:`qact.corruptions.constants`), and
    random numbers ``r`` of (seed, name, severity, index[i]). The originals cut the decimals instead
    of rounding, which darkens by half a level of 255.

    Args:
        images: floating tensor (N, C, H, W) in [0, 1], C = 1 or 3, any device.
        name: one of :func:`corruptions`.
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
    known(name)
    _check_severity(severity)
    check_images(images)
    index = _checked_index(index, images)
    if severity == 0 or images.numel() == 0:
        return images
    constant = constants(name, severity, min(images.shape[-2:]))
    return _apply(GROUPS["all"][name], constant, f"{name}/{int(severity)}", images, seed, index)


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
    known(name, "mnist")
    _check_severity(severity if severity is not None else 1)
    check_images(images)
    if images.shape[1] != 1:
        raise ValueError(f"MNIST-C corrupts grey images (N, 1, H, W), got {tuple(images.shape)}")
    index = _checked_index(index, images)
    if severity == 0 or images.numel() == 0:
        return images
    table, usual = mnist_c.TABLE[name]
    level = int(usual or 1) if severity is None or usual is None else int(severity)
    label = f"mnist/{name}/{level}"
    return _apply(mnist_c.FUNCTIONS[name], table[level - 1], label, images, seed, index)


def _apply(
    function: Corruption, constant: Any, label: str, images: Tensor, seed: int, index: Tensor
) -> Tensor:
    # Without the strides of the images: passes write flat memory.
    out = torch.empty(images.shape, dtype=images.dtype, device=images.device)
    draws = Draws(seed, label, index)
    if twin := _twin(function, images):
        whole = out if out.dtype == torch.float32 else torch.empty(images.shape)
        twin(images.float().contiguous(), constant, draws, whole)
        return out if whole is out else out.copy_(whole)
    chunk = max(1, _CHUNK[images.device.type != "cpu"] // images[0].numel())
    parts = images.split(chunk), draws.parts(chunk), out.split(chunk)
    for x, part, to in zip(*parts, strict=True):
        rounded(function(x.float().contiguous(), constant, part), to)
    return out


def _twin(function: Corruption, images: Tensor) -> Any:
    """What does all of a corruption in one compiled pass, rounding included, if there is such."""
    passes = on_cpu(images, "twins")
    return passes and passes.TWINS.get(function)


def rounded(result: Tensor, out: Tensor) -> None:
    """Write ``round(255 clip(result, 0, 1)) / 255`` into ``out``."""
    plain = result.is_contiguous() and out.dtype == torch.float32
    if plain and (passes := on_cpu(result, "levels")):
        passes.rounded(result, out)
    else:
        out.copy_(result.clamp(0, 1).mul_(255).round_().div_(255))


# Values worked on at a time: the caches of a CPU core hold them; a GPU wants more.
_CHUNK = (1 << 18, 1 << 25)


def known(name: str, group: str = "all") -> None:
    """Raise ``ValueError`` for a name that is not in the group, with the closest ones."""
    if not isinstance(name, str) or name not in GROUPS[group]:
        raise unknown("corruption", name, GROUPS[group])


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
        raise ValueError(f"images must lie in [0, 1], got values from {low} to {high}")


def _checked_index(index: Tensor | None, images: Tensor) -> Tensor:
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
