"""The 8-point cosine transform in fixed point, as libjpeg's default ("islow") rounds it.

The flow graph is that of Loeffler, Ligtenberg and Moschytz (ICASSP 1989).
"""

import torch
from torch import Tensor

BITS = 13  # fractional bits of the transform's constants


def fixed(value: float, bits: int = BITS) -> int:
    """A constant as the nearest integer multiple of 2^-bits."""
    return int(value * (1 << bits) + 0.5)


def _descale(x: Tensor, bits: int) -> Tensor:
    return x.add_(1 << (bits - 1)).bitwise_right_shift_(bits)


def _rotated(
    a: Tensor, b: Tensor, common: float, on_a: float, on_b: float
) -> tuple[Tensor, Tensor]:
    """The two outputs of a plane rotation with three multiplications instead of four."""
    shared = (a + b) * fixed(common)
    return a * fixed(on_a) + shared, shared - b * fixed(on_b)


def _odd_part(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> list[Tensor]:
    """The odd half of the 8-point transform; it is its own transpose, so both directions use it."""
    z1, z2, z3, z4 = a + d, b + c, a + c, b + d
    z5 = (z3 + z4) * fixed(1.175875602)
    z1, z2 = z1 * -fixed(0.899976223), z2 * -fixed(2.562915447)
    z3, z4 = z3 * -fixed(1.961570560) + z5, z4 * -fixed(0.390180644) + z5
    return [
        a * fixed(0.298631336) + z1 + z3,
        b * fixed(2.053119869) + z2 + z4,
        c * fixed(3.072711026) + z2 + z3,
        d * fixed(1.501321110) + z1 + z4,
    ]


def _forward(x: tuple[Tensor, ...], first: bool) -> list[Tensor]:
    """8-point cosine transform of eight tensors; 2 extra bits are kept between the two passes."""
    total = [x[k] + x[7 - k] for k in range(4)]
    d7, d6, d5, d4 = (x[3 - k] - x[4 + k] for k in range(4))
    t10, t13 = total[0] + total[3], total[0] - total[3]
    t11, t12 = total[1] + total[2], total[1] - total[2]
    shift = BITS - 2 if first else BITS + 2
    even = [t10 + t11, t10 - t11]
    even = [v << 2 for v in even] if first else [_descale(v, 2) for v in even]
    y2, y6 = _rotated(t13, t12, 0.541196100, 0.765366865, 1.847759065)
    y7, y5, y3, y1 = _odd_part(d7, d6, d5, d4)
    odd = [_descale(v, shift) for v in (y1, y2, y3, y5, y6, y7)]
    return [even[0], odd[0], odd[1], odd[2], even[1], odd[3], odd[4], odd[5]]


def _inverse(x: tuple[Tensor, ...], first: bool) -> list[Tensor]:
    """Inverse of :func:`_forward`, with the scaling of libjpeg."""
    low, high = _rotated(x[2], x[6], 0.541196100, 0.765366865, 1.847759065)
    plus, minus = (x[0] + x[4]) << BITS, (x[0] - x[4]) << BITS
    even = (plus + low, minus + high, minus - high, plus - low)
    odd = _odd_part(x[7], x[5], x[3], x[1])[::-1]
    shift = BITS - 2 if first else BITS + 5
    ahead = [_descale(e + o, shift) for e, o in zip(even, odd, strict=True)]
    back = [_descale(e - o, shift) for e, o in zip(even, odd, strict=True)]
    return ahead + back[::-1]


def forward(blocks: Tensor) -> Tensor:
    """Cosine transform of int32 blocks (8, 8, M), rows first; 8 times the orthonormal one."""
    rows = torch.stack(_forward(blocks.unbind(1), first=True), 1)
    return torch.stack(_forward(rows.unbind(0), first=False), 0)


def inverse(blocks: Tensor) -> Tensor:
    """Inverse of the orthonormal cosine transform of int32 blocks (8, 8, M), columns first."""
    columns = torch.stack(_inverse(blocks.unbind(0), first=True), 0)
    return torch.stack(_inverse(columns.unbind(1), first=False), 1)
