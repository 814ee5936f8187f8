"""A vision transformer for small images (Dosovitskiy et al. 2021, arXiv 2010.11929)."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact import checks
from qact.attention import Attention, Form
from qact.models.placement import Act, Placement, placed
from qact.models.registry import register
from qact.models.width import at_least_one, scaled


class _Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(
        self, width: int, heads: int, hidden: int, act: Placement, normaliser: str
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, normaliser)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.up = nn.Linear(width, hidden)
        self.act = act("act", hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        hidden = self.up(self.norm2(x)).transpose(1, 2)  # activations have channels at 1
        return x + self.down(self.act(hidden).transpose(1, 2))


class ViT(nn.Module):
    """A pre-norm transformer on square patches, with a class token and learned positions.

    Positions of activations: ``blocks.i.act``, in the place of GELU; its channels are the hidden
    features, and its context all tokens of the batch. There is no BatchNorm: of a network with a
    pointwise activation nothing adapts to the test batch.

    Args:
        depth: number of blocks.
        width: features of a token, a multiple of ``heads``.
        heads: attention heads.
        in_channels: channels of the images.
        num_classes: number of outputs (logits).
        act: see :func:`qact.models.placement.placed`.
        image_size: side of the images, a multiple of ``patch``.
        patch: side of a patch.
        normaliser: of the attention, a name as in :class:`qact.attention.Attention`.

    Shapes:
        input ``(N, in_channels, image_size, image_size)``, output ``(N, num_classes)``.

    Raises:
        ValueError: a number is below 1, or one is no multiple of the other.

    Example:
        >>> from qact.models import ViT
        >>> import torch
        >>> net = ViT(2, 8, 2, 1, 10, image_size=28)
        >>> net(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int,
        width: int,
        heads: int,
        in_channels: int,
        num_classes: int,
        act: Act = "gelu",
        image_size: int = 32,
        patch: int = 4,
        normaliser: str = "softmax",
    ) -> None:
        super().__init__()
        at_least_one(
            depth=depth, width=width, heads=heads, in_channels=in_channels, num_classes=num_classes
        )
        at_least_one(image_size=image_size, patch=patch)
        for name, whole, part, of in (
            ("image_size", image_size, patch, "patch"),
            ("width", width, heads, "heads"),
        ):
            if whole % part:
                raise ValueError(f"{name} must be a multiple of {of}={part}, got {whole!r}")
        act = placed(act)
        self.patches = nn.Conv2d(in_channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, (image_size // patch) ** 2 + 1, width))
        blocks = [
            _Block(width, heads, 4 * width, act.within(f"blocks.{i}"), normaliser)
            for i in range(depth)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)
        act.finish()
        self._initialize()

    def _initialize(self) -> None:
        for place in (self.token, self.places):
            nn.init.trunc_normal_(place, std=0.02)
        forms = {part for m in self.modules() if isinstance(m, Form) for part in m.modules()}
        for module in self.modules():
            # A form of attention has a start of its own.
            if isinstance(module, nn.Linear) and module not in forms:
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def denser(self, stride: int) -> ViT:
        """Return a copy that cuts a patch every ``stride`` pixels: patches as before, only more.

        Sequences become longer than in training while every token looks as it did: what changes
        for the attention is the number of keys. Positions are interpolated, linearly, at the
        centres of the new patches.

        Raises:
            ValueError: ``stride`` is not between 1 and the patch.

        Example:
            >>> net = ViT(1, 8, 2, 1, 10, image_size=16)
            >>> net.places.shape[1], net.denser(1).places.shape[1]
            (17, 170)
        """
        patch, n = self.patches.kernel_size[0], math.isqrt(self.places.shape[1] - 1)
        if checks.integer("stride", stride, 1) > patch:
            raise ValueError(f"stride={stride} must be at most the patch of {patch}")
        new = copy.deepcopy(self)
        new.patches.stride = (stride, stride)
        # In units of the old grid, whose corners are the centres of its outer patches.
        m = patch * (n - 1) // stride + 1
        at = torch.arange(m, dtype=torch.float32) * stride / (patch * max(n - 1, 1)) * 2 - 1
        grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)[None]
        with torch.no_grad():
            square = self.places[:, 1:].transpose(1, 2).unflatten(2, (n, n))
            between = F.grid_sample(square, grid.to(square), align_corners=True)
            new.places = nn.Parameter(
                torch.cat([self.places[:, :1], between.flatten(2).transpose(1, 2)], 1)
            )
        return new

    def embed(self, x: Tensor) -> Tensor:
        """Return the normalised class token, ``(N, width)``."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.places
        return self.norm(self.blocks(tokens))[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)``."""
        return self.head(self.embed(x))


@register("vit_tiny", paper="Dosovitskiy et al. 2021, arXiv 2010.11929")
def vit_tiny(
    in_channels: int = 3,
    num_classes: int = 10,
    act: Act = "gelu",
    width_multiplier: float = 1.0,
    image_size: int = 32,
    normaliser: str = "softmax",
) -> ViT:
    """Return a ViT of 6 blocks, 192 features and 3 heads on patches of 4x4.

    Half the depth of DeiT's smallest (Touvron et al. 2021, arXiv 2012.12877), 2.7 million
    parameters.

    Example:
        >>> from qact.models import vit_tiny
        >>> sum(p.numel() for p in vit_tiny().parameters())
        2693578
    """
    width = scaled(192, width_multiplier, of=3)
    return ViT(6, width, 3, in_channels, num_classes, act, image_size, normaliser=normaliser)
