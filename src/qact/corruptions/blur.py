"""Blur corruptions: gaussian, defocus, motion and zoom blur (arXiv 1903.12261)."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from qact.corruptions import linear
from qact.corruptions.random import Draws, on_cpu
from qact.corruptions.registry import HENDRYCKS, register

SIDEWAYS = (-45.0, 45.0)  # degrees
ANGLES = 4096  # angles of motion blur are read off a grid: see _taps


def nearest(position: np.ndarray, size: int) -> np.ndarray:
    """Border rule that repeats the edge pixel: a a a | a b c d | d d d."""
    return np.clip(position, 0, size - 1)


def reflect(position: np.ndarray, size: int) -> np.ndarray:
    """Border rule that repeats the edge in the mirror: c b a | a b c d | d c b."""
    position = position % (2 * size)
    return np.minimum(position, 2 * size - 1 - position)


def mirror(position: np.ndarray, size: int) -> np.ndarray:
    """Border rule with the edge pixel as the mirror (reflect-101): d c b | a b c d | c b a."""
    period = max(2 * size - 2, 1)
    position = position % period
    return np.minimum(position, period - position) if size > 1 else position


def band(kernel: np.ndarray, size: int, border: str = "nearest") -> np.ndarray:
    """Matrix (size, size) that correlates with an odd 1-D kernel under a border rule."""
    rule = {"nearest": nearest, "reflect": reflect, "mirror": mirror, "zero": nearest}[border]
    matrix = np.zeros((size, size))
    rows = np.arange(size)
    for weight, shift in zip(kernel, range(-(len(kernel) // 2), len(kernel) // 2 + 1), strict=True):
        place = rows + shift
        inside = (place >= 0) & (place < size) if border == "zero" else np.ones(size, bool)
        np.add.at(matrix, (rows, rule(place, size)), weight * inside)
    return matrix


def gaussian_kernel(sigma: float, radius: int) -> np.ndarray:
    """Normalised gaussian weights at -radius .. radius."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-9)) ** 2)
    return weights / weights.sum()


@lru_cache(maxsize=64)
def gaussian(sigma: float, size: int, border: str = "nearest", truncate: float = 4.0) -> Tensor:
    """The gaussian filter of one axis, weights up to ``truncate`` sigmas."""
    return linear.axis(band(gaussian_kernel(sigma, int(truncate * sigma + 0.5)), size, border))


def smooth(x: Tensor, sigma: float, border: str = "nearest", truncate: float = 4.0) -> Tensor:
    """Separable gaussian filter of (N, C, H, W), weights up to ``truncate`` sigmas."""
    h, w = x.shape[-2:]
    vertical = gaussian(sigma, h, border, truncate)
    return linear.along(vertical, gaussian(sigma, w, border, truncate), x)


def smooth_levels(x: Tensor, sigma: float) -> Tensor:
    """:func:`smooth`, cut to whole levels of 255 as a cast to bytes cuts, in [0, 1].

    A level that the filter leaves alone is that level: weights rounded to 2^-24 move 255 by up to
    255 * 2 taps * 2^-25, less than 2^-12 up to 15 taps an axis, and are given so much.
    """
    return smooth(x * 255, sigma).add_(2.0**-12).floor_().div_(255)


@register(
    "gaussian_blur",
    paper=HENDRYCKS,
    constants={
        "cifar": [0.4, 0.6, 0.7, 0.8, 1],
        "tiny_imagenet": [0.5, 0.75, 1, 1.25, 1.5],
        "imagenet": [1, 2, 3, 4, 6],
    },
)
def gaussian_blur(x: Tensor, sigma: float, draws: Draws) -> Tensor:
    """Gaussian filter of width ``sigma``, channel by channel, edge pixels repeated."""
    return smooth(x, sigma)


def disk(radius: float, alias: float) -> np.ndarray:
    """Kernel of defocus: a disk smoothed by a gaussian of ``alias`` (3x3; 5x5 if radius > 8)."""
    reach = 8 if radius <= 8 else math.ceil(radius)
    grid = np.arange(-reach, reach + 1)
    kernel = (grid[:, None] ** 2 + grid**2 <= radius**2).astype(np.float64)
    edge = band(gaussian_kernel(alias, 1 if radius <= 8 else 2), len(grid), "mirror")
    return edge @ (kernel / kernel.sum()) @ edge.T


@lru_cache(maxsize=32)
def disk_taps(radius: float, alias: float) -> tuple[int, list[tuple[float, list[list[int]]]]]:
    """Reach of the disk, and its weights, each with the places (i, j) that share it."""
    kernel = disk(radius, alias)
    used = np.flatnonzero(kernel.max(0) > 1e-9)
    kernel = kernel[used[0] : used[-1] + 1, used[0] : used[-1] + 1].round(9)
    shared = [float(weight) for weight in np.unique(kernel) if weight > 0]
    return len(kernel) // 2, [(w, np.argwhere(kernel == w).tolist()) for w in shared]


@register(
    "defocus_blur",
    paper=HENDRYCKS,
    constants={
        "cifar": [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
        "tiny_imagenet": [(0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)],
        "imagenet": [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
    },
)
def defocus_blur(x: Tensor, constant: tuple[float, float], draws: Draws) -> Tensor:
    """Convolution with a smoothed disk of (radius, alias), edges mirrored (reflect-101)."""
    h, w = x.shape[-2:]
    reach, taps = disk_taps(*constant)
    for axis, size in ((2, h), (3, w)):
        place = torch.from_numpy(mirror(np.arange(-reach, size + reach), size))
        x = x.index_select(axis, place.to(x.device))
    out = torch.zeros_like(x[..., :h, :w])
    for weight, places in taps:
        # A sum of shifted images, in the same order for every batch; most weights are equal.
        total = torch.zeros_like(out)
        for i, j in places:
            total += x[..., i : i + h, j : j + w]
        out += total.mul_(weight)
    return out


@lru_cache(maxsize=64)
def _taps(
    radius: int, sigma: float, low: float, high: float, device: torch.device
) -> tuple[list[float], Tensor]:
    """Weights of the taps and their (y, x) offsets for each angle of the grid, (ANGLES, taps, 2).

    Offsets are integers computed once per angle: sines of a batch could differ in their last bit
    from one batch size to the next, and a rounding would turn that into a pixel.
    """
    along = np.arange(2 * radius + 1)
    weights = np.exp(-(along**2) / (2 * sigma**2))
    weights /= weights.sum()
    weights = weights[weights > 1e-7]
    angle = np.deg2rad(low + (high - low) * (np.arange(ANGLES) + 0.5) / ANGLES)[:, None]
    step = along[: len(weights)]
    offsets = np.stack([step * np.sin(angle), step * np.cos(angle)], -1)
    whole = np.ceil(offsets - 0.5).astype(np.int64)
    return weights.tolist(), torch.from_numpy(whole).to(device)


def motion(
    x: Tensor, radius: int, sigma: float, angles: tuple[float, float], draws: Draws
) -> Tensor:
    """One-sided gaussian line of 2 radius + 1 taps at a random angle per image (degrees).

    Tap ``i`` reads the pixel at the rounded offset ``i (cos, sin)``; edge pixels are repeated, as
    ImageMagick's motion blur does.
    """
    n, c, h, w = x.shape
    weights, table = _taps(int(radius), float(sigma), *angles, draws.key.device)
    offsets = table[draws.integers(ANGLES)]  # of an angle drawn for each image, (N, taps, 2)
    if passes := on_cpu(x, "motion"):
        return passes.motion(x, weights, offsets)
    rows, columns = (torch.arange(s, device=x.device) for s in (h, w))
    flat, out = x.flatten(2), torch.zeros_like(x).flatten(2)
    for i, weight in enumerate(weights):
        y = (rows + offsets[:, i, :1]).clamp_(0, h - 1) * w
        to = y[:, :, None] + (columns + offsets[:, i, 1:]).clamp_(0, w - 1)[:, None]
        out += flat.gather(2, to.view(n, 1, h * w).expand(n, c, h * w)).mul_(weight)
    return out.view(n, c, h, w)


@register(
    "motion_blur",
    paper=HENDRYCKS,
    constants={
        "cifar": [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
        "tiny_imagenet": [(10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)],
        "imagenet": [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
    },
)
def motion_blur(x: Tensor, constant: tuple[int, float], draws: Draws) -> Tensor:
    """Motion blur (radius, sigma) at an angle uniform in [-45, 45] degrees."""
    return motion(x, *constant, SIDEWAYS, draws)


def zoom_matrix(size: int, factor: float) -> np.ndarray:
    """Matrix (size, size): the centre crop of ceil(size / factor) samples, stretched bilinearly."""
    crop = math.ceil(size / factor)
    full = round(crop * factor)
    first, trim = (size - crop) // 2, (full - size) // 2
    place = (np.arange(size) + trim) * ((crop - 1) / max(full - 1, 1))
    low = np.minimum(np.floor(place).astype(int), crop - 1)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size), first + low), 1 - (place - low))
    np.add.at(matrix, (np.arange(size), first + np.minimum(low + 1, crop - 1)), place - low)
    return matrix


@lru_cache(maxsize=4)  # 75 MB each at 224 pixels
def _zooms(factors: tuple[float, ...], h: int, w: int) -> Tensor:
    parts = [linear.kron(np.eye(h), np.eye(w))]
    parts += [linear.kron(zoom_matrix(h, f), zoom_matrix(w, f)) for f in factors]
    scaled = [(rows, columns, weights / len(parts)) for rows, columns, weights in parts]
    return linear.assemble(scaled, (h * w, h * w))


def _factors(*steps: tuple[float, float]) -> list[tuple[float, ...]]:
    # numpy's arange decides whether the end point belongs: the published lists came from it.
    return [tuple(np.arange(1, end, step).tolist()) for end, step in steps]


_SMALL = _factors((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))
_LARGE = _factors((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))


@register(
    "zoom_blur",
    paper=HENDRYCKS,
    constants={"cifar": _SMALL, "tiny_imagenet": _SMALL, "imagenet": _LARGE},
)
def zoom_blur(x: Tensor, factors: tuple[float, ...], draws: Draws) -> Tensor:
    """Mean of the image and its centre crops magnified by each of ``factors``."""
    return linear.pixels(_zooms(tuple(factors), *x.shape[-2:]), x)
