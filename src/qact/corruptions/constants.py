"""Severity constants of CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C (arXiv 1903.12261)."""

from typing import Any

import numpy as np

SEVERITIES = (1, 2, 3, 4, 5)
SCALES = ("cifar", "tiny_imagenet", "imagenet")


def _factors(*steps: tuple[float, float]) -> list[tuple[float, ...]]:
    # numpy's arange decides whether the end point belongs: the published lists came from it.
    return [tuple(np.arange(1, end, step).tolist()) for end, step in steps]


_SMALL_ZOOM = _factors((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))
_LARGE_ZOOM = _factors((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))

# name: (CIFAR, Tiny-ImageNet, ImageNet), each a list of the five severities.
_TABLE: dict[str, tuple[list[Any], list[Any], list[Any]]] = {
    "gaussian_noise": (
        [0.04, 0.06, 0.08, 0.09, 0.10],
        [0.04, 0.08, 0.12, 0.15, 0.18],
        [0.08, 0.12, 0.18, 0.26, 0.38],
    ),
    "shot_noise": ([500, 250, 100, 75, 50], [250, 100, 50, 30, 15], [60, 25, 12, 5, 3]),
    "impulse_noise": (
        [0.01, 0.02, 0.03, 0.05, 0.07],
        [0.01, 0.02, 0.05, 0.08, 0.14],
        [0.03, 0.06, 0.09, 0.17, 0.27],
    ),
    "speckle_noise": (
        [0.06, 0.1, 0.12, 0.16, 0.2],
        [0.15, 0.2, 0.25, 0.3, 0.35],
        [0.15, 0.2, 0.35, 0.45, 0.6],
    ),
    "gaussian_blur": ([0.4, 0.6, 0.7, 0.8, 1], [0.5, 0.75, 1, 1.25, 1.5], [1, 2, 3, 4, 6]),
    # sigma, max_delta, iterations
    "glass_blur": (
        [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
        [(0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)],
        [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
    ),
    # radius, sigma of the smoothing of the disk
    "defocus_blur": (
        [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
        [(0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)],
        [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
    ),
    # radius, sigma
    "motion_blur": (
        [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
        [(10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)],
        [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
    ),
    "zoom_blur": (_SMALL_ZOOM, _SMALL_ZOOM, _LARGE_ZOOM),
    # amount, decay
    "fog": (
        [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
        [(0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)],
        [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
    ),
    # weight of the image, weight of the texture
    "frost": (
        [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
        [(1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)],
        [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
    ),
    # mean, std, zoom, threshold, radius, sigma, blend
    "snow": (
        [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
        [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ],
        [
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ],
    ),
    # mean, std, sigma, threshold, strength, mud
    "spatter": (
        [
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ],
        [
            (0.62, 0.1, 0.7, 0.7, 0.6, 0),
            (0.65, 0.1, 0.8, 0.7, 0.6, 0),
            (0.65, 0.3, 1, 0.69, 0.6, 0),
            (0.65, 0.1, 0.7, 0.68, 0.6, 1),
            (0.65, 0.1, 0.5, 0.67, 0.6, 1),
        ],
        [
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ],
    ),
    "contrast": (
        [0.75, 0.5, 0.4, 0.3, 0.15],
        [0.4, 0.3, 0.2, 0.1, 0.05],
        [0.4, 0.3, 0.2, 0.1, 0.05],
    ),
    "brightness": (
        [0.05, 0.1, 0.15, 0.2, 0.3],
        [0.1, 0.2, 0.3, 0.4, 0.5],
        [0.1, 0.2, 0.3, 0.4, 0.5],
    ),
    # factor, offset
    "saturate": (
        [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
        [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)],
        [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)],
    ),
    "jpeg_compression": ([80, 65, 58, 50, 40], [65, 58, 50, 40, 25], [25, 18, 15, 10, 7]),
    "pixelate": (
        [0.95, 0.9, 0.85, 0.75, 0.65],
        [0.9, 0.8, 0.7, 0.6, 0.5],
        [0.6, 0.5, 0.4, 0.3, 0.25],
    ),
    # alpha, sigma, affine: fractions of the side of the image
    "elastic_transform": (
        [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)],
        [(0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)],
        # Published for 224 pixels as multiples of 244.
        [
            tuple(244 / 224 * c for c in row)
            for row in (
                (2, 0.7, 0.1),
                (2, 0.08, 0.2),
                (0.05, 0.01, 0.02),
                (0.07, 0.01, 0.02),
                (0.12, 0.01, 0.02),
            )
        ],
    ),
}


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
    """The constants of one corruption at one severity for images whose shorter side is ``size``.

    Lengths in pixels (sigmas, radii) are those of the benchmark chosen by :func:`scale_of`, not
    rescaled; only ``elastic_transform`` is published in fractions of the side, and returned in
    pixels.

    Args:
        name: corruption, e.g. ``"fog"``.
        severity: 1 to 5.
        size: shorter side in pixels.

    Returns:
        A number or a tuple, as listed in the table of this module.

    Raises:
        ValueError: unknown name, or severity outside 1 to 5.

    Example:
        >>> constants("gaussian_noise", 5, 32), constants("gaussian_noise", 5, 224)
        (0.1, 0.38)
        >>> constants("fog", 1, 32)
        (0.2, 3)
    """
    if name not in _TABLE:
        raise ValueError(f"no constants for corruption {name!r}; known: {', '.join(_TABLE)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity!r}")
    value = _TABLE[name][SCALES.index(scale_of(size))][int(severity) - 1]
    if name == "elastic_transform":
        return tuple(size * part for part in value)
    return value
