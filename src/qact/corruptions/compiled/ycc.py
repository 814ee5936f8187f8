"""The colours of JPEG, see `qact.corruptions.jpeg`, in 16 fractional bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from qact.corruptions.compiled.jit import inline
from qact.corruptions.dct import fixed

_i = np.int32
_YR, _YG, _YB = _i(fixed(0.29900, 16)), _i(fixed(0.58700, 16)), _i(fixed(0.11400, 16))
_BR, _BG, _HALF = _i(fixed(0.16874, 16)), _i(fixed(0.33126, 16)), _i(fixed(0.5, 16))
_RG, _RB = _i(fixed(0.41869, 16)), _i(fixed(0.08131, 16))
_CENTRE = _i((128 << 16) + (1 << 15) - 1)
_TO_R, _TO_B = _i(fixed(1.40200, 16)), _i(fixed(1.77200, 16))
_TO_GB, _TO_GR = _i(fixed(0.34414, 16)), _i(fixed(0.71414, 16))


@inline
def to_ycc(red: Any, green: Any, blue: Any) -> None:
    """Y, Cb and Cr in the place of three planes."""
    for i in range(red.shape[0]):
        r_row, g_row, b_row = red[i], green[i], blue[i]
        for j in range(red.shape[1]):
            r, g, b = r_row[j], g_row[j], b_row[j]
            y = _i(_i(r * _YR) + _i(g * _YG) + _i(b * _YB) + _i(1 << 15))
            cb = _i(_i(b * _HALF) - _i(r * _BR) - _i(g * _BG) + _CENTRE)
            cr = _i(_i(r * _HALF) - _i(g * _RG) - _i(b * _RB) + _CENTRE)
            r_row[j], g_row[j], b_row[j] = _i(y >> 16), _i(cb >> 16), _i(cr >> 16)


@inline
def scaled(x: Any) -> Any:
    """A level, cut to 0 ... 255, over 255."""
    return np.float32(min(max(x, _i(0)), _i(255))) / np.float32(255)


@inline
def to_rgb(luma: Any, blue: Any, red: Any, i: Any, out: Any) -> None:
    """Row ``i`` of an image (3, H, W) from rows of Y, Cb and Cr."""
    to_r, to_g, to_b = out[0, i], out[1, i], out[2, i]
    for j in range(len(to_r)):
        y, cb, cr = luma[j], _i(blue[j] - 128), _i(red[j] - 128)
        green = _i(_i(1 << 15) - _i(cb * _TO_GB) - _i(cr * _TO_GR))
        to_r[j] = scaled(_i(y + _i(_i(_i(cr * _TO_R) + _i(1 << 15)) >> 16)))
        to_g[j] = scaled(_i(y + _i(green >> 16)))
        to_b[j] = scaled(_i(y + _i(_i(_i(cb * _TO_B) + _i(1 << 15)) >> 16)))
