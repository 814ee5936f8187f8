"""Elastic transform: a random affine map, then a smooth random displacement of every pixel."""

import torch
from torch import Tensor

from qact.corruptions.blur import smooth
from qact.corruptions.random import Draws
from qact.corruptions.registry import HENDRYCKS, register


def _remainder(place: Tensor, period: int) -> Tensor:
    # In floats, exact for whole numbers of this size, and faster than the division of integers.
    return place - (place / period).floor_().mul_(period)


def _mirror(place: Tensor, size: int) -> Tensor:
    place = _remainder(place, max(2 * size - 2, 1))
    return torch.minimum(place, (2 * size - 2 - place).abs_())


def _reflect(place: Tensor, size: int) -> Tensor:
    place = _remainder(place, 2 * size)
    return torch.minimum(place, 2 * size - 1 - place)


def sample(x: Tensor, y: Tensor, z: Tensor, border: str) -> Tensor:
    """Bilinear samples of (N, C, H, W) at rows ``y`` and columns ``z``, both (N, H, W).

    ``border`` is ``"mirror"`` (d c b | a b c d | c b a) or ``"reflect"`` (c b a | a b c d | d c b).
    """
    n, c, h, w = x.shape
    rule = _mirror if border == "mirror" else _reflect
    top, left = y.floor(), z.floor()
    down, right = y - top, z - left
    rows = [(rule(top + k, h) * w).long() for k in (0, 1)]
    columns = [rule(left + k, w).long() for k in (0, 1)]
    flat, out = x.flatten(2), torch.zeros_like(x)
    for row, a in zip(rows, (1 - down, down), strict=True):
        for column, b in zip(columns, (1 - right, right), strict=True):
            at = (row + column).view(n, 1, h * w).expand(n, c, h * w)
            out += flat.gather(2, at).view_as(x) * (a * b)[:, None]
    return out


def affine(x: Tensor, reach: float, draws: Draws) -> Tensor:
    """Move three points around the centre by up to ``reach`` pixels, the image with them."""
    h, w = x.shape[-2:]
    s = float(max(min(h, w) // 3, 1))
    move = draws.uniform(3, 2, low=-reach, high=reach).double()
    base = torch.tensor([[s, s], [s, -s], [-s, -s]], dtype=torch.float64, device=move.device)
    p, q, origin = (base + move).unbind(1)  # (N, 2) as (x, y), relative to the centre
    (px, py), (qx, qy) = (p - origin).T, (q - origin).T
    det = px * qy - py * qx
    unit = 2 * s / torch.where(det.abs() < 1e-3, -1e-3, det)
    # place = origin + a p + b q comes from base[2] + (2 s (a + b), 2 s a): linear in the place.
    by_column = torch.stack([qy - py, qy], 1) * unit[:, None]
    by_row = torch.stack([px - qx, -qx], 1) * unit[:, None]
    start = -s - by_column * origin[:, :1] - by_row * origin[:, 1:]
    rows = torch.arange(h, dtype=torch.float64, device=x.device)[:, None] - h // 2
    columns = torch.arange(w, dtype=torch.float64, device=x.device) - w // 2
    down = (by_row[:, :, None, None] * rows + start[:, :, None, None]).float()
    z, y = (down + (by_column[:, :, None, None] * columns).float()).clamp_(-1e6, 1e6).unbind(1)
    return sample(x, y + h // 2, z + w // 2, "mirror")


@register(
    "elastic_transform",
    paper=HENDRYCKS,
    constants={  # alpha, sigma, affine: fractions of the side
        "cifar": [
            (0, 0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ],
        "tiny_imagenet": [
            (0, 0, 0.08),
            (0.05, 0.3, 0.06),
            (0.1, 0.08, 0.06),
            (0.1, 0.03, 0.03),
            (0.16, 0.03, 0.02),
        ],
        "imagenet": [  # published for 224 pixels as multiples of 244
            tuple(244 / 224 * c for c in row)
            for row in (
                (2, 0.7, 0.1),
                (2, 0.08, 0.2),
                (0.05, 0.01, 0.02),
                (0.07, 0.01, 0.02),
                (0.12, 0.01, 0.02),
            )
        ],
    },
    of_side=True,
)
def elastic_transform(x: Tensor, constant: tuple[float, float, float], draws: Draws) -> Tensor:
    """Affine map, then displacements of uniform noise smoothed by ``sigma`` times ``alpha``."""
    alpha, sigma, reach = constant
    x = affine(x, reach, draws)
    if alpha == 0:
        return x
    h, w = x.shape[-2:]
    field = smooth(draws.uniform(2, h, w, low=-1.0, high=1.0), sigma, "reflect", 3.0) * alpha
    rows = torch.arange(h, device=x.device)[:, None]
    columns = torch.arange(w, device=x.device)
    return sample(x, field[:, 0] + rows, field[:, 1] + columns, "reflect")
