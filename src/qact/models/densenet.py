"""Densely connected networks (Huang et al. 2017, arXiv 1608.06993), the plain form for CIFAR."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qact.models.placement import Act, Placement, placed
from qact.models.registry import register
from qact.models.residual import conv
from qact.models.width import at_least_one, scaled


class _Layer(nn.Module):
    """``cat(x, conv(act(bn(x))))``."""

    def __init__(self, channels: int, growth: int, act: Placement) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.act = act("act", channels)
        self.conv = conv(channels, growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(self.act(self.bn(x)))], 1)


class _Transition(nn.Module):
    """``pool(conv(act(bn(x))))``; the channels stay, height and width are halved."""

    def __init__(self, channels: int, act: Placement) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.act = act("act", channels)
        self.conv = conv(channels, channels, 1)
        self.pool = nn.AvgPool2d(2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(self.act(self.bn(x))))


class DenseNet(nn.Module):
    """Three dense blocks, each layer of which adds ``growth`` channels to all before it.

    Positions of activations: ``blocks.i.j.act``, ``transitions.i.act`` and the last, ``act``.

    Args:
        depth: layers with weights, ``3 n + 4``.
        growth: channels that each layer adds, the paper's ``k``.
        in_channels: channels of the images.
        num_classes: number of outputs (logits).
        act: see :func:`qact.models.placement.placed`.
        stem: channels of the first convolution, 16 in the paper.

    Shapes:
        input ``(N, in_channels, H, W)``, output ``(N, num_classes)``.

    Raises:
        ValueError: ``depth`` is not ``3 n + 4`` with ``n >= 1``, or a number is below 1.

    Example:
        >>> from qact.models import DenseNet
        >>> DenseNet(10, 4, 1, 10).head
        Linear(in_features=40, out_features=10, bias=True)
    """

    def __init__(
        self,
        depth: int,
        growth: int,
        in_channels: int,
        num_classes: int,
        act: Act = "relu",
        stem: int = 16,
    ) -> None:
        super().__init__()
        if depth < 7 or (depth - 4) % 3:
            raise ValueError(f"depth must be 3 n + 4 with n >= 1, got {depth!r}")
        at_least_one(growth=growth, in_channels=in_channels, num_classes=num_classes, stem=stem)
        act, channels, layers = placed(act), stem, (depth - 4) // 3
        self.stem = conv(in_channels, stem, 3)
        blocks, transitions = [], []
        for i in range(3):
            dense = []
            for j in range(layers):
                dense.append(_Layer(channels, growth, act.within(f"blocks.{i}.{j}")))
                channels += growth
            blocks.append(nn.Sequential(*dense))
            if i < 2:
                transitions.append(_Transition(channels, act.within(f"transitions.{i}")))
        self.blocks, self.transitions = nn.ModuleList(blocks), nn.ModuleList(transitions)
        self.bn = nn.BatchNorm2d(channels)
        self.act = act("act", channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)
        act.finish()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled features before the head."""
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            x = block(x)
            x = self.transitions[i](x) if i < 2 else x
        return self.pool(self.act(self.bn(x))).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)``."""
        return self.head(self.embed(x))


@register("densenet40", paper="Huang et al. 2017, arXiv 1608.06993")
def densenet40(
    in_channels: int = 3, num_classes: int = 10, act: Act = "relu", width_multiplier: float = 1.0
) -> DenseNet:
    """Return DenseNet-40 with growth 12: 1.0 million parameters.

    Example:
        >>> from qact.models import densenet40
        >>> sum(p.numel() for p in densenet40().parameters())
        1019722
    """
    growth, stem = scaled(12, width_multiplier), scaled(16, width_multiplier)
    return DenseNet(40, growth, in_channels, num_classes, act, stem)
