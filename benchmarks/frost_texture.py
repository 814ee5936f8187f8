"""Fit the texture of `qact.corruptions.frost` to the photographs of frost of imagecorruptions.

    python benchmarks/frost_texture.py

Prints the numbers that stand in that module: of each picture, shrunk as CIFAR-10-C (0.2),
Tiny-ImageNet-C (0.3) and ImageNet-C (1) shrink it, the mean colour and the direction in which its
colours vary, the cubic that gives a normal number the distribution of the pixels along it (least
squares on quantiles), and the sizes of the octaves of a diamond-square map whose radial power
spectrum is that of crops (least squares on logarithms), with the spectrum's ratio, made by found.
Nothing here looks at a network.
"""

import importlib.util
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.optimize import least_squares
from scipy.special import ndtri

from qact.corruptions.weather import heights

SCALES = {"cifar": (0.2, 32, 1500), "tiny_imagenet": (0.3, 64, 1500), "imagenet": (1.0, 128, 400)}
FILES = ("frost1.png", "frost2.png", "frost4.jpg", "frost5.jpg")  # frost3 is frost2 once more


def picture(file: str, scale: float) -> np.ndarray:
    folder = Path(importlib.util.find_spec("imagecorruptions").origin).parent / "frost"
    found = cv2.resize(cv2.imread(str(folder / file)), (0, 0), fx=scale, fy=scale)
    return found[..., ::-1] / 255.0


def crops(image: np.ndarray, side: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows, columns = (rng.integers(0, n - side, count) for n in image.shape[:2])
    parts = [image[i : i + side, j : j + side] for i, j in zip(rows, columns, strict=True)]
    return np.stack(parts)


def maps(side: int, count: int, sizes: np.ndarray) -> np.ndarray:
    noise = torch.randn(count, side, side, generator=torch.Generator().manual_seed(0))
    return heights(noise, [float(size) for size in sizes]).double().numpy()


def spectrum(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean power of (N, side, side) in rings half an octave wide, and how many places each has."""
    side = x.shape[-1]
    window = np.outer(np.hanning(side), np.hanning(side))
    windowed = (x - x.mean((1, 2), keepdims=True)) * window / np.sqrt((window**2).mean())
    power = (np.abs(np.fft.fft2(windowed)) ** 2).mean(0) / side**2
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side) * side] * 2))
    edges = 0.5 * 2 ** (np.arange(2 * side.bit_length() - 1) / 2)
    rings = [(frequency > a) & (frequency <= b) for a, b in pairwise(edges)]
    rings = [ring for ring in rings if ring.any()]
    return np.array([power[r].mean() for r in rings]), np.array([r.sum() for r in rings])


def cubic(values: np.ndarray) -> np.ndarray:
    """(a, b, c) of ``a z + b (z^2 - 1) + c z^3`` whose quantiles are those of ``values``."""
    values = np.sort(values.ravel())
    z = ndtri((np.arange(len(values)) + 0.5) / len(values))
    terms = np.stack([z, z * z - 1, z**3], 1)
    return np.linalg.lstsq(terms, values - values.mean(), rcond=None)[0]


def shaped(z: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return shape[0] * z + shape[1] * (z * z - 1) + shape[2] * z**3


def octaves(values: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sizes (constant, coarsest, ..., finest), and the ratio of the spectrum, made by found."""
    side = values.shape[1]
    units = np.eye(side.bit_length() - 1)
    single = [maps(side, 400, unit) for unit in units]
    base, whole = np.stack([spectrum(x)[0] for x in single]), np.array([x.var() for x in single])
    found, places = spectrum(values)
    weight, gain = np.sqrt(places / places.sum()), 1.0
    for _ in range(4):  # the cubic adds power, which the gain takes off again

        def error(log: np.ndarray, wanted: np.ndarray = found * gain) -> np.ndarray:
            over = np.log((np.exp(log) * whole).sum() / values.var())
            return np.append(weight * np.log(np.exp(log) @ base / wanted), 3 * max(over, 0))

        start = np.full(len(units), np.log(found.mean() / base.sum(0).mean()))
        power = np.exp(least_squares(error, start, bounds=(-14, 2)).x) / values.var()
        power /= max((power * whole).sum(), 1)
        constant = max(1 - (power * whole).sum(), 0)
        level = np.sqrt(constant) * np.random.default_rng(0).normal(size=(1500, 1, 1))
        made = spectrum(shaped(maps(side, 1500, np.sqrt(power)) + level, shape))[0]
        gain *= np.exp((weight**2 * np.log(found / made)).sum())
    return np.sqrt([constant, *power]), made / found


def fitted(file: str, scale: float, side: int, count: int) -> dict[str, Any]:
    pixels = crops(picture(file, scale), side, count)
    mean = pixels.mean((0, 1, 2))
    inner = pixels - pixels.mean((1, 2), keepdims=True)
    direction = np.linalg.eigh(np.cov(inner.reshape(-1, 3).T))[1][:, -1]
    direction *= np.sign(direction.sum())
    along = (pixels - mean) @ direction
    shape = cubic(along)
    sizes, ratio = octaves(along, shape)
    return {"mean": mean, "direction": direction, "cubic": shape, "sizes": sizes, "ratio": ratio}


def main() -> None:
    for name, (scale, side, count) in SCALES.items():
        for file in FILES:
            found = fitted(file, scale, side, count)
            numbers = {k: tuple(np.round(v, 3).tolist()) for k, v in found.items()}
            print(name, file, *(f"\n    {k} {v}" for k, v in numbers.items()), flush=True)


if __name__ == "__main__":
    main()
