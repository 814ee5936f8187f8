"""Glass blur: local displacement of pixels between two gaussian blurs (arXiv 1903.12261)."""

import torch
from torch import Tensor

from qact.corruptions.blur import smooth, smooth_levels
from qact.corruptions.random import Draws
from qact.corruptions.registry import HENDRYCKS, register


@register(
    "glass_blur",
    paper=HENDRYCKS,
    constants={  # sigma, max_delta, iterations
        "cifar": [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
        "tiny_imagenet": [(0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)],
        "imagenet": [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
    },
)
def glass_blur(x: Tensor, constant: tuple[float, int, int], draws: Draws) -> Tensor:
    """Gaussian blur, local displacement of pixels, gaussian blur.

    Each sweep goes from the far corner to the near one and replaces every pixel by one displaced by
    integers drawn from [-delta, delta). The published code means to swap the two; on colour images
    its swap of numpy views copies instead, which is what the published files contain and what
    happens here, for grey images too.
    """
    sigma, delta, sweeps = constant
    x = smooth_levels(x, sigma)
    n, c, h, w = x.shape
    for _ in range(sweeps):
        source = displaced(draws, delta, h, w)
        x = x.flatten(2).gather(2, source[:, None].expand(n, c, h * w)).view(n, c, h, w)
    return smooth(x, sigma)


def displaced(draws: Draws, delta: int, h: int, w: int) -> Tensor:
    """Where each pixel's value comes from after one sweep, as flat indices (N, H W).

    A pixel reads either a place not swept yet, whose value is original, or one swept before, whose
    value was itself read elsewhere: chains, resolved by pointer doubling.
    """
    step = draws.integers(2 * delta, 2, h * w) - delta
    here = torch.arange(h * w, device=step.device)
    row, column = here // w, here % w
    inside = (row > delta) & (row <= h - delta) & (column > delta) & (column <= w - delta)
    target = torch.where(inside, here + step[:, 0] * w + step[:, 1], here)
    follow = inside[target.clamp(0, h * w - 1)] & (target > here)
    final = torch.where(follow, target, here)  # the swept place whose answer is the same
    for _ in range(max(h * w - 1, 1).bit_length()):
        further = final.gather(1, final)
        # Chains are short; a GPU would wait for the answer.
        if further.device.type == "cpu" and torch.equal(further, final):
            break
        final = further
    return target.gather(1, final)


def swapped(draws: Draws, delta: int, h: int, w: int) -> Tensor:
    """Where each pixel's value comes from after one sweep of true swaps, flat indices (N, H W).

    Of the pixels that are far enough from the border, from the far corner to the near one, each is
    swapped with probability 1/2 with one displaced by integers drawn from [-delta, delta).
    """
    step = draws.integers(2 * delta, 2, h * w) - delta
    moved = draws.bits(h * w) >= 0
    here = torch.arange(h * w, device=step.device)
    partner = torch.where(moved, here + step[:, 0] * w + step[:, 1], here).t().contiguous()
    source = here[:, None].repeat(1, len(step))
    for row in range(h - delta, delta, -1):
        for column in range(w - delta, delta, -1):
            at = row * w + column
            if row < h and column < w:
                mine, other = source[at].clone(), partner[at : at + 1]
                source[at] = source.gather(0, other)[0]
                source.scatter_(0, other, mine[None])
    return source.t().contiguous()
