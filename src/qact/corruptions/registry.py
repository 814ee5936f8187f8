"""The corruptions by name, with constants and papers; see `qact.corruptions.apply` for their use.

A corruption is a function of images, its constants and random numbers, entered by
:func:`register` with the constants of each severity and its paper: one new file, here or elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from qact.corruptions.random import Draws
from qact.registry import Entry, Registry, unknown

Corruption = Callable[[Tensor, Any, Draws], Tensor]
HENDRYCKS = "Hendrycks and Dietterich 2019, arXiv 1903.12261"
SEVERITIES = (1, 2, 3, 4, 5)
SCALES = ("cifar", "tiny_imagenet", "imagenet")


@dataclass(frozen=True)
class CorruptionEntry(Entry):
    """One corruption, ``make(images, constant, draws)``.

    Args:
        constants: five, one for each severity; or five for each of :data:`SCALES`, when the size of
            the images decides (:func:`scale_of`).
        of_side: the constants are lengths as fractions of the shorter side.
        usual: the severity of the published files, if they have one alone.
    """

    constants: Mapping[str, Sequence[Any]] | Sequence[Any]
    of_side: bool = False
    usual: int | None = None

    def constant(self, severity: int, size: int) -> Any:
        """Return the constants at a severity, for images of ``size`` pixels."""
        if severity not in SEVERITIES:
            raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity!r}")
        rows = self.constants
        row = (rows[scale_of(size)] if isinstance(rows, Mapping) else rows)[int(severity) - 1]
        return tuple(size * part for part in row) if self.of_side else row


CORRUPTIONS = Registry("corruption", CorruptionEntry, room="qact.corruptions")
register = CORRUPTIONS.register
entry = CORRUPTIONS.__getitem__
names = CORRUPTIONS.names

# What the benchmarks consist of, in the order of their papers.
_STANDARD = """
gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow frost fog
brightness contrast elastic_transform pixelate jpeg_compression
"""
_HOLDOUT = "speckle_noise gaussian_blur spatter saturate"
_MNIST = """
identity shot_noise impulse_noise glass_blur motion_blur shear scale rotate brightness translate
stripe fog spatter dotted_line zigzag canny_edges
"""
_LISTS = {"standard": _STANDARD, "holdout": _HOLDOUT, "all": _STANDARD + _HOLDOUT, "mnist": _MNIST}
GROUPS = {group: tuple(listed.split()) for group, listed in _LISTS.items()}


def scale_of(size: int) -> str:
    """Which of the three published benchmarks lends its constants to images of ``size`` pixels.

    The nearest of 32, 64 and 224 on a logarithmic scale: CIFAR-10-C up to 45 pixels,
    Tiny-ImageNet-C from 46 to 119, ImageNet-C from 120 on.

    Example:
        >>> [scale_of(s) for s in (28, 45, 46, 119, 120)]
        ['cifar', 'cifar', 'tiny_imagenet', 'tiny_imagenet', 'imagenet']
    """
    return SCALES[(size * size > 32 * 64) + (size * size > 64 * 224)]


def constants(name: str, severity: int, size: int) -> Any:
    """Return the constants of one corruption at one severity for images of side ``size``.

    Lengths in pixels (sigmas, radii) are those of the benchmark chosen by :func:`scale_of`, not
    rescaled; only ``elastic_transform`` is published in fractions of the side, and returned in
    pixels.

    Args:
        name: corruption, e.g. ``"fog"``.
        severity: 1 to 5.
        size: shorter side in pixels.

    Raises:
        ValueError: unknown name, or severity outside 1 to 5.

    Example:
        >>> constants("gaussian_noise", 5, 32), constants("gaussian_noise", 5, 224)
        (0.1, 0.38)
        >>> constants("fog", 1, 32)
        (0.2, 3)
    """
    return known(name).constant(severity, size)


def corruptions(group: str = "standard") -> tuple[str, ...]:
    """Names of the corruptions of CIFAR-10-C, in the order of the paper (arXiv 1903.12261).

    Args:
        group: ``"standard"`` (the 15 of the benchmark), ``"holdout"`` (the 4 for validation),
            ``"all"`` (both), ``"mnist"`` (MNIST-C's, for grey digits), or ``"own"`` (those that
            others than this package have registered).

    Returns:
        Tuple of names for :func:`corrupt`; of ``"mnist"`` for :func:`corrupt_mnist`.

    Raises:
        ValueError: unknown group.

    Example:
        >>> corruptions("holdout")
        ('speckle_noise', 'gaussian_blur', 'spatter', 'saturate')
    """
    if group == "own":
        return tuple(n for n in names() if n not in GROUPS["all"] and not n.startswith("mnist/"))
    if group not in GROUPS:
        raise unknown("group of corruptions", group, [*GROUPS, "own"])
    return GROUPS[group]


def expanded(asked: Sequence[str]) -> list[str]:
    """Return the corruptions of a group that was asked for by its name, or those that were named.

    Example:
        >>> expanded(["holdout"]), expanded(["fog"])
        (['speckle_noise', 'gaussian_blur', 'spatter', 'saturate'], ['fog'])
    """
    whole = len(asked) == 1 and asked[0] in ("standard", "holdout", "all", "own")
    return list(corruptions(asked[0]) if whole else asked)


def known(name: str, group: str = "all") -> CorruptionEntry:
    """Return the entry of a name; ``group`` is ``"all"``, one's own included, or ``"mnist"``.

    Raises:
        ValueError: there is no such corruption; the error has the closest names.
    """
    here = GROUPS[group] if group == "mnist" else [*GROUPS["all"], *corruptions("own")]
    if not isinstance(name, str) or name not in here:
        raise unknown("corruption", name, here)
    return entry(f"mnist/{name}" if group == "mnist" else name)
