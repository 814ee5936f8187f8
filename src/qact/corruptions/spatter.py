"""Spatter: drops of water or mud on the lens (arXiv 1903.12261)."""

import numpy as np
import torch
from torch import Tensor

from qact.corruptions.blur import smooth
from qact.corruptions.random import Draws
from qact.corruptions.registry import HENDRYCKS, register
from qact.corruptions.weather import grey

COLOURS = ((175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255))  # turquoise, brown
_FAR = 20  # distances are truncated here, in pixels


def _bordered(x: Tensor, mirrored: bool) -> Tensor:
    """One more pixel on each side of (N, H, W): the neighbour of the edge, or the edge itself."""
    for axis in (1, 2):
        size = x.shape[axis]
        inner = min(1, size - 1) if mirrored else 0
        first, last = x.narrow(axis, inner, 1), x.narrow(axis, size - 1 - inner, 1)
        x = torch.cat([first, x, last], axis)
    return x


def _neighbours(x: Tensor) -> list[list[Tensor]]:
    """The 3 x 3 shifted views of a bordered (N, H + 2, W + 2)."""
    h, w = x.shape[1] - 2, x.shape[2] - 2
    return [[x[:, i : i + h, j : j + w] for j in range(3)] for i in range(3)]


def _box(x: Tensor) -> Tensor:
    total = sum((v for row in _neighbours(_bordered(x, True)) for v in row), torch.zeros_like(x))
    return total / 9


def canny(level: Tensor, low: int, high: int) -> Tensor:
    """Canny edges (1986) of int32 (N, H, W) in 0..255: L1 Sobel gradient, thinning, hysteresis."""
    (a, b, c), (d, _, f), (g, h, i) = _neighbours(_bordered(level, False))
    dx, dy = c + 2 * f + i - a - 2 * d - g, g + 2 * h + i - a - 2 * b - c
    size = dx.abs() + dy.abs()
    (a, b, c), (d, _, f), (g, h, i) = _neighbours(torch.nn.functional.pad(size, (1, 1, 1, 1)))
    # tan(22.5 degrees) and tan(67.5 degrees) in 15 fractional bits.
    flat = (dy.abs() << 15) < dx.abs() * 13573
    steep = (dy.abs() << 15) > dx.abs() * (13573 + (2 << 15))
    falling = (dx < 0) ^ (dy < 0)
    diagonal = ~(flat | steep)
    crest = flat & (size > d) & (size >= f) | steep & (size > b) & (size >= h)
    crest |= diagonal & falling & (size > c) & (size > g)
    crest |= diagonal & ~falling & (size > a) & (size > i)
    return connected(crest & (size > low), crest & (size > high))


def connected(weak: Tensor, strong: Tensor) -> Tensor:
    """Weak pixels joined to a strong one by a path of weak neighbours."""
    weak = weak.float()
    edge, count = strong.float(), -1.0
    while count != (total := edge.sum(dtype=torch.float64).item()):
        count = total
        for axis in (1, 2):
            size, grown = edge.shape[axis], edge.clone()
            ahead, back = grown.narrow(axis, 0, size - 1), grown.narrow(axis, 1, size - 1)
            torch.maximum(ahead, edge.narrow(axis, 1, size - 1), out=ahead)
            torch.maximum(back, edge.narrow(axis, 0, size - 1), out=back)
            edge = grown
        edge = edge * weak
    return edge > 0


def distance(edge: Tensor) -> Tensor:
    """Euclidean distance to the nearest True of (N, H, W), at most 20, one axis after the other."""
    far = float(_FAR * _FAR)
    square = far - edge.float() * far
    for axis in (1, 2):
        size, best = square.shape[axis], square.clone()
        for k in range(1, min(_FAR, size)):
            ahead, back = square.narrow(axis, k, size - k), square.narrow(axis, 0, size - k)
            near, after = best.narrow(axis, 0, size - k), best.narrow(axis, k, size - k)
            torch.minimum(near, ahead + k * k, out=near)
            torch.minimum(after, back + k * k, out=after)
        square = best
    # A table: the last bit of a vectorised root may depend on the place in its register.
    roots = torch.from_numpy(np.sqrt(np.arange(_FAR * _FAR + 1, dtype=np.float32)))
    return roots.to(square.device)[square.long()]


def equalised(level: Tensor) -> Tensor:
    """Histogram equalisation of int64 (N, H, W) in 0..255, image by image."""
    flat = level.flatten(1)
    count = torch.zeros(len(flat), 256, dtype=torch.int64, device=flat.device)
    count.scatter_add_(1, flat, torch.ones_like(flat))
    first = count.gather(1, flat.amin(1, keepdim=True))
    rest = flat.shape[1] - first
    table = (count.cumsum(1) - first).clamp(min=0) * (255.0 / rest.clamp(min=1).double())
    result = table.round().clamp(0, 255).long().gather(1, flat)
    return torch.where(rest > 0, result, flat).view_as(level)


def water(liquid: Tensor, threshold: float) -> Tensor:
    """Opacity of the drops (N, H, W) in [0, 1]: thick inside, sharp towards the lower right."""
    liquid = liquid * (liquid >= threshold)
    level = (liquid * 255).floor().clamp_(0, 255)
    far = _box(distance(canny(level.int(), 50, 150))).floor().long()
    (a, b, _), (d, e, f), (_, h, i) = _neighbours(_bordered(equalised(far), True))
    sharp = (e + f + h + 2 * i - 2 * a - b - d).clamp(0, 255).float()
    thick = level * _box(sharp).round()
    return thick / thick.amax((1, 2), keepdim=True).clamp(min=1)


@register(
    "spatter",
    paper=HENDRYCKS,
    constants={  # mean, std, sigma, threshold, strength, mud
        "cifar": [
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ],
        "tiny_imagenet": [
            (0.62, 0.1, 0.7, 0.7, 0.6, 0),
            (0.65, 0.1, 0.8, 0.7, 0.6, 0),
            (0.65, 0.3, 1, 0.69, 0.6, 0),
            (0.65, 0.1, 0.7, 0.68, 0.6, 1),
            (0.65, 0.1, 0.5, 0.67, 0.6, 1),
        ],
        "imagenet": [
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ],
    },
)
def spatter(x: Tensor, constant: tuple[float, ...], draws: Draws) -> Tensor:
    """Smoothed and thresholded noise as drops: pale turquoise water, or brown mud that covers.

    Distances to the edge of a drop are Euclidean where OpenCV's are those of a 5 x 5 mask. A grey
    image receives the luma of the colour.
    """
    mean, std, sigma, threshold, strength, mud = constant
    liquid = smooth(draws.normal(1, *x.shape[2:]).mul_(std).add_(mean), sigma)
    if mud:
        cover = smooth((liquid > threshold).float(), strength)
        thick = cover * (cover >= 0.8)
    else:
        thick = water(liquid[:, 0], threshold)[:, None]
    colour = x.new_tensor(COLOURS[bool(mud)]).view(1, 3, 1, 1)
    colour = colour if x.shape[1] == 3 else grey(colour)
    return x * (1 - thick) + colour * thick if mud else x + thick * strength * colour
