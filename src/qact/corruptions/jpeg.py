"""JPEG compression in integer tensor arithmetic, bit for bit what libjpeg does by default.

Baseline JPEG loses information in four places only, and only they are computed: the conversion of
colours, 4:2:0 subsampling of the chroma, quantised 8x8 cosine transforms, and their inverses (the
"islow" integer transforms of Loeffler, Ligtenberg and Moschytz 1989; triangle-filtered chroma). The
entropy coding between them is lossless and left out. ITU-T T.81 gives the tables.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from qact.corruptions.dct import fixed, forward, inverse
from qact.corruptions.random import Draws
from qact.corruptions.registry import HENDRYCKS, register

_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_CORNER = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))


def quantisation_table(quality: int, chroma: bool) -> list[list[int]]:
    """Quantisation steps (8, 8) of T.81 Annex K at a libjpeg quality of 1 to 100.

    Example:
        >>> quantisation_table(50, chroma=False)[0]
        [16, 11, 10, 16, 24, 40, 51, 61]
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    base = [[99] * 8 for _ in range(8)] if chroma else [list(row) for row in _LUMA]
    if chroma:
        for row, corner in zip(base, _CHROMA_CORNER, strict=False):
            row[:4] = corner
    return [[min(max((step * scale + 50) // 100, 1), 255) for step in row] for row in base]


@lru_cache(maxsize=64)
def _steps(quality: int, chroma: bool, device: torch.device) -> Tensor:
    table = quantisation_table(quality, chroma)
    return torch.tensor(table, dtype=torch.int32, device=device)[:, :, None]


def _coded(plane: Tensor, quality: int, chroma: bool) -> Tensor:
    """Transform, quantise and reconstruct int32 planes (N, H, W) whose sides are multiples of 8."""
    n, h, w = plane.shape
    blocks = plane.view(n, h // 8, 8, w // 8, 8).permute(2, 4, 0, 1, 3).reshape(8, 8, -1) - 128
    steps = _steps(quality, chroma, plane.device)
    coefficients = forward(blocks)
    # The transform is 8 times the orthonormal one; rounding is half away from zero.
    sign = coefficients.sign()
    # Floats divide faster than integers, and below 2^24 the floor of the quotient is exact.
    level = (coefficients.abs_() + steps * 4).float().div_(steps * 8).floor_().int()
    blocks = inverse(level.mul_(sign).mul_(steps))
    blocks = blocks.add_(128).clamp_(0, 255)
    return blocks.view(8, 8, n, h // 8, w // 8).permute(2, 3, 0, 4, 1).reshape(n, h, w)


def _to_ycc(rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r, g, b = rgb.unbind(1)
    half, centre = 1 << 15, (128 << 16) + (1 << 15) - 1
    y = r * fixed(0.29900, 16) + g * fixed(0.58700, 16) + b * fixed(0.11400, 16) + half
    cb = r * -fixed(0.16874, 16) - g * fixed(0.33126, 16) + b * fixed(0.5, 16) + centre
    cr = r * fixed(0.5, 16) - g * fixed(0.41869, 16) - b * fixed(0.08131, 16) + centre
    return y >> 16, cb >> 16, cr >> 16


def _to_rgb(y: Tensor, cb: Tensor, cr: Tensor) -> Tensor:
    cb, cr, half = cb - 128, cr - 128, 1 << 15
    r = y + ((cr * fixed(1.40200, 16) + half) >> 16)
    g = y + ((cb * -fixed(0.34414, 16) - cr * fixed(0.71414, 16) + half) >> 16)
    b = y + ((cb * fixed(1.77200, 16) + half) >> 16)
    return torch.stack([r, g, b], 1).clamp_(0, 255)


def _replicated(plane: Tensor, h: int, w: int) -> Tensor:
    """Repeat the last row and column of (N, H, W) up to (N, h, w)."""
    if plane.shape[1:] == (h, w):
        return plane
    rows = torch.arange(h, device=plane.device).clamp_(max=plane.shape[1] - 1)
    columns = torch.arange(w, device=plane.device).clamp_(max=plane.shape[2] - 1)
    return plane[:, rows][:, :, columns]


def _halved(plane: Tensor) -> Tensor:
    """Mean of 2x2 pixels; the rounding bias alternates 1, 2, 1, 2 along a row."""
    total = plane[:, ::2, ::2] + plane[:, 1::2, ::2] + plane[:, ::2, 1::2] + plane[:, 1::2, 1::2]
    bias = torch.arange(total.shape[2], dtype=torch.int32, device=plane.device) % 2 + 1
    return (total + bias) >> 2


def _doubled(plane: Tensor) -> Tensor:
    """Upsample (N, h, w) to (N, 2h, 2w): weights 3/4 and 1/4 along each axis."""
    if plane.shape[2] <= 2:  # libjpeg falls back to plain repetition
        return plane.repeat_interleave(2, 1).repeat_interleave(2, 2)
    edge = _replicated(plane, plane.shape[1] + 1, plane.shape[2])
    edge = torch.cat([plane[:, :1], edge], 1)
    above, below = edge[:, :-2] + plane * 3, edge[:, 2:] + plane * 3
    x = torch.stack([above, below], 2).flatten(1, 2)
    side = pad(x, (1, 1))
    side[:, :, 0], side[:, :, -1] = x[:, :, 0], x[:, :, -1]
    left, right = (side[:, :, :-2] + x * 3 + 8) >> 4, (side[:, :, 2:] + x * 3 + 7) >> 4
    return torch.stack([left, right], 3).flatten(2, 3)


def _chroma(plane: Tensor, quality: int) -> Tensor:
    """What subsampling, coding and upsampling leave of a chroma plane (N, H, W)."""
    h, w = plane.shape[1:]
    rows, columns = (h + 1) // 2, (w + 1) // 2
    full = (rows + 7) // 8 * 8, (columns + 7) // 8 * 8
    small = _halved(_replicated(plane, 2 * rows, 2 * full[1]))
    coded = _coded(_replicated(small, *full), quality, chroma=True)
    return _doubled(coded[:, :rows, :columns])[:, :h, :w]


@register(
    "jpeg_compression",
    paper=HENDRYCKS,
    constants={
        "cifar": [80, 65, 58, 50, 40],
        "tiny_imagenet": [65, 58, 50, 40, 25],
        "imagenet": [25, 18, 15, 10, 7],
    },
)
def jpeg_compression(x: Tensor, quality: int, draws: Draws) -> Tensor:
    """Encode at a libjpeg ``quality`` and decode; colour with 4:2:0 chroma, grey as one plane."""
    n, c, h, w = x.shape
    levels = x.mul(255).round_().int()
    planes = _to_ycc(levels) if c == 3 else (levels[:, 0],)
    padded = _replicated(planes[0], (h + 7) // 8 * 8, (w + 7) // 8 * 8)
    y = _coded(padded, quality, chroma=False)[:, :h, :w]
    if c == 1:
        return y[:, None].float().div_(255)
    cb, cr = _chroma(torch.cat(planes[1:]), quality).split(n)
    return _to_rgb(y, cb, cr).float().div_(255)
