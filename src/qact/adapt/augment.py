"""Random views of test images for teachers and consistency, in any normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

View = Callable[[Tensor], Tensor]


def given(augment: View | None) -> View | None:
    """The function that makes a view of a batch, or None for the method's own."""
    if augment is not None and not callable(augment):
        raise TypeError(f"augment={augment!r} must be a function of a batch, or None")
    return augment


class Views:
    """Jitter, a small affine map and a flip, drawn anew at each call.

    The published views (arXiv 2203.13591, appendix) act on pixels in [0, 1]. Here images come
    normalised by unknown numbers, so brightness and contrast act about each image's own mean and
    spread, saturation about the mean over channels; hue, gamma and the faint blur are left out.
    Inputs that are no images (N, C, H, W) get the noise alone.

    Args:
        noise: standard deviation of the noise, in units of the image's spread.
        flip: mirror every other image; wrong for digits and text.
        seed: of the draws.
    """

    def __init__(self, noise: float = 0.005, flip: bool = True, seed: int = 0) -> None:
        self.noise, self.flip = noise, flip
        self.draw = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """A view of every sample; shape, dtype and device of ``x``."""
        if not x.is_floating_point():
            return x
        if x.dim() == 4:
            x = self._moved(self._jittered(x))
        spread = x.std() if x.numel() > 1 else x.new_ones(())
        noise = torch.randn(x.shape, generator=self.draw, dtype=torch.float32, device="cpu").to(x)
        return x + self.noise * spread * noise

    def _uniform(self, like: Tensor, low: float, high: float) -> Tensor:
        draws = (
            torch.rand(len(like), generator=self.draw, dtype=torch.float32, device="cpu")
            * (high - low)
            + low
        )
        return draws.to(like)

    def _jittered(self, x: Tensor) -> Tensor:
        """Brightness and contrast of +-40% and +-30%, saturation of +-50%."""
        mean, spread = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
        shift, scale, colour = (
            self._uniform(x, *bounds)[:, None, None, None]
            for bounds in ((-0.4, 0.4), (0.7, 1.3), (0.5, 1.5))
        )
        grey = x.mean(1, keepdim=True)
        x = grey + colour * (x - grey) if x.shape[1] > 1 else x
        return mean + scale * (x - mean) + shift * spread

    def _moved(self, x: Tensor) -> Tensor:
        """Rotated by up to 15 degrees, scaled by up to 10%, moved by up to a sixteenth."""
        angle = self._uniform(x, -math.pi / 12, math.pi / 12)
        scale = 1 / self._uniform(x, 0.9, 1.1)
        mirror = (
            1 - 2 * (self._uniform(x, 0, 1) < 0.5).to(x) if self.flip else torch.ones_like(scale)
        )
        cos, sin = scale * angle.cos(), scale * angle.sin()
        right, down = self._uniform(x, -1 / 8, 1 / 8), self._uniform(x, -1 / 8, 1 / 8)
        rows = (
            torch.stack([cos * mirror, -sin, right], 1),
            torch.stack([sin * mirror, cos, down], 1),
        )
        grid = affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
        return grid_sample(x, grid, padding_mode="border", align_corners=False)
