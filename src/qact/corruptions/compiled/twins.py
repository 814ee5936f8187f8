"""Corruptions that are one compiled pass, rounding included.

A twin takes float32 images, contiguous on a CPU, and writes the finished ones into ``out``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from qact.corruptions import blur, digital, elastic, jpeg, noise, spatter, weather
from qact.corruptions.compiled import digital as digitals
from qact.corruptions.compiled import disk, gather, motion, plasma
from qact.corruptions.compiled import jpeg as jpegs
from qact.corruptions.compiled import linear as filters
from qact.corruptions.compiled import noise as noises
from qact.corruptions.compiled import pixelate as pixels
from qact.corruptions.compiled import spatter as spatters
from qact.corruptions.random import Draws

Twin = Callable[[Tensor, Any, Draws, Tensor], None]

TWINS: dict[Callable[[Tensor, Any, Draws], Tensor], Twin] = {
    noise.gaussian_noise: noises.gaussian_noise,
    noise.shot_noise: noises.shot_noise,
    noise.impulse_noise: noises.impulse_noise,
    noise.speckle_noise: noises.speckle_noise,
    blur.defocus_blur: disk.defocus_blur,
    blur.motion_blur: motion.motion_blur,
    blur.gaussian_blur: filters.gaussian_blur,
    weather.fog: plasma.fog,
    weather.brightness: digitals.brightness,
    digital.contrast: digitals.contrast,
    digital.saturate: digitals.saturate,
    digital.pixelate: pixels.pixelate,
    elastic.elastic_transform: gather.elastic_transform,
    jpeg.jpeg_compression: jpegs.jpeg_compression,
    spatter.spatter: spatters.spatter,
}
