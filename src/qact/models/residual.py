"""Residual blocks (He et al. 2015, arXiv 1512.03385): BatchNorm stands before each activation."""

from __future__ import annotations

from torch import Tensor, nn

from qact.models.placement import Act, Placement, placed

# What a bottleneck's branch is scaled by before training, see `Bottleneck`.
BRANCH = 0.2


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the size (up to ``stride``).

    It has no bias: the BatchNorm behind it has one.
    """
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """``act2(bn2(conv2(act1(bn1(conv1(x))))) + shortcut(x))``, two convolutions of 3x3.

    Args:
        in_channels: channels of the input.
        width: channels of the block; the output has as many.
        stride: stride of the first convolution and of the shortcut.
        act: see :func:`qact.models.placement.placed`; positions ``act1`` and ``act2``.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1, act: Act = "relu") -> None:
        super().__init__()
        act = placed(act)
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = act("act1", width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = act("act2", width)
        self.shortcut = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, width, ceil(H/s), ceil(W/s))``."""
        hidden = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3, 1x1 around a shortcut; the output has four times ``width`` channels.

    The scale of the last BatchNorm starts at 0.2, so that a block starts close to its shortcut
    (Goyal et al. 2017, arXiv 1706.02677, start at zero). Every normalised convolution lengthens a
    gradient a little, and a branch of three does so 16 times in ResNet-50: a residual sum that
    grows from block to block, as behind a ReLU, makes up for it, one that is normalised anew, as by
    QAct, does not. At zero the sum would hold the zeros of a ReLU, which are one value to a rank.

    Args:
        in_channels: channels of the input.
        width: channels of the first two convolutions.
        stride: stride of the 3x3 convolution and of the shortcut.
        act: as in :class:`BasicBlock`; positions ``act_in``, ``act_mid`` and ``act_out``.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1, act: Act = "relu") -> None:
        super().__init__()
        act, wide = placed(act), width * self.expansion
        self.conv1 = conv(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.act_in = act("act_in", width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.act_mid = act("act_mid", width)
        self.conv3 = conv(width, wide, 1)
        self.bn3 = nn.BatchNorm2d(wide)
        nn.init.constant_(self.bn3.weight, BRANCH)
        self.act_out = act("act_out", wide)
        self.shortcut = _shortcut(in_channels, wide, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, 4 width, ceil(H/s), ceil(W/s))``."""
        hidden = self.act_in(self.bn1(self.conv1(x)))
        hidden = self.act_mid(self.bn2(self.conv2(hidden)))
        return self.act_out(self.bn3(self.conv3(hidden)) + self.shortcut(x))


Block = type[BasicBlock] | type[Bottleneck]


def stage(
    block: Block, count: int, in_channels: int, width: int, stride: int, act: Placement
) -> nn.Sequential:
    """Return ``count`` blocks, the first of which has the ``stride``."""
    blocks: list[nn.Module] = []
    for i in range(count):
        blocks.append(block(in_channels, width, stride if i == 0 else 1, act.within(str(i))))
        in_channels = width * block.expansion
    return nn.Sequential(*blocks)
