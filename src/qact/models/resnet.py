"""Residual networks for small images (He et al. 2015, arXiv 1512.03385; the CIFAR stem of 3x3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from qact.models.placement import Act, placed
from qact.models.registry import register
from qact.models.residual import BasicBlock, Block, Bottleneck, conv, stage
from qact.models.width import at_least_one, scaled


class ResNet(nn.Module):
    """A residual network for images of about 16x16 to 64x64 pixels.

    A 3x3 stem of stride 1 keeps the resolution, one of stride 2 halves it; stage ``i`` has
    ``blocks[i]`` blocks of ``width * 2**i`` channels, and every stage but the first halves height
    and width. ResNet-18, -34 and -50 are this class with other numbers.

    Positions of activations: ``stem.2``, ``stages.i.j.act1`` and ``.act2`` (``.act_in``,
    ``.act_mid``, ``.act_out`` with bottlenecks), and ``features``, the pooled features, which has
    none unless it is named.

    Args:
        blocks: number of blocks of each stage, each at least 1.
        width: channels of the first stage.
        in_channels: channels of the images.
        num_classes: number of outputs (logits).
        act: an activation for all positions, or a mapping of positions, see
            :func:`qact.models.placement.placed`.
        stem_stride: stride of the first convolution.
        block: :class:`BasicBlock` or :class:`Bottleneck`.

    Shapes:
        input ``(N, in_channels, H, W)``, output ``(N, num_classes)``; the dtype of the weights.

    Raises:
        ValueError: ``blocks`` is empty, a number is below 1, or ``act`` does not fit.

    Example:
        >>> import torch
        >>> from qact.models import ResNet
        >>> network = ResNet(blocks=(1, 1), width=4, in_channels=1, num_classes=10)
        >>> network(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        blocks: Sequence[int],
        width: int,
        in_channels: int,
        num_classes: int,
        act: Act = "relu",
        stem_stride: int = 1,
        block: Block = BasicBlock,
    ) -> None:
        super().__init__()
        if not blocks or min(blocks) < 1:
            raise ValueError(
                f"blocks must name at least one stage of at least 1 block, got {blocks!r}"
            )
        at_least_one(
            width=width, in_channels=in_channels, num_classes=num_classes, stem_stride=stem_stride
        )
        act = placed(act)
        self.stem = nn.Sequential(
            conv(in_channels, width, 3, stem_stride),
            nn.BatchNorm2d(width),
            act.within("stem")("2", width),
        )
        stages, channels = [], width
        for i, count in enumerate(blocks):
            place, wide = act.within(f"stages.{i}"), width * 2**i
            stages.append(stage(block, count, channels, wide, 1 if i == 0 else 2, place))
            channels = wide * block.expansion
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.features = act.extra("features", channels)
        self.head = nn.Linear(channels, num_classes)
        act.finish()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled features before the head, ``(N, C)``."""
        return self.features(self.pool(self.stages(self.stem(x))).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)`` for images ``(N, in_channels, H, W)``."""
        return self.head(self.embed(x))


@register("resnet_small", paper="He et al. 2015, arXiv 1512.03385, ours in size")
def resnet_small(
    in_channels: int = 1,
    num_classes: int = 10,
    act: Act = "relu",
    width_multiplier: float = 1.0,
) -> ResNet:
    """Return a residual network that a laptop trains in seconds: 3 blocks, 8-16-32 channels.

    7 convolutions of 3x3 and 2 shortcuts; 7 activations; 19,810 parameters. The stem halves the
    image: at 32x32 the network works on 16x16, 8x8 and 4x4 positions.

    Example:
        >>> from qact.models import resnet_small
        >>> sum(p.numel() for p in resnet_small().parameters())
        19810
    """
    width = scaled(8, width_multiplier)
    return ResNet((1, 1, 1), width, in_channels, num_classes, act, stem_stride=2)


@register("resnet18", paper="He et al. 2015, arXiv 1512.03385")
def resnet18(
    in_channels: int = 3, num_classes: int = 10, act: Act = "relu", width_multiplier: float = 1.0
) -> ResNet:
    """Return ResNet-18 for 32x32 images: stages of 2-2-2-2 blocks, 64-128-256-512 channels.

    Example:
        >>> from qact.models import resnet18
        >>> sum(p.numel() for p in resnet18().parameters())
        11173962
    """
    return ResNet((2, 2, 2, 2), scaled(64, width_multiplier), in_channels, num_classes, act)


@register("resnet34", paper="He et al. 2015, arXiv 1512.03385")
def resnet34(
    in_channels: int = 3, num_classes: int = 10, act: Act = "relu", width_multiplier: float = 1.0
) -> ResNet:
    """Return ResNet-34 for 32x32 images: stages of 3-4-6-3 blocks, 64-128-256-512 channels.

    Example:
        >>> from qact.models import resnet34
        >>> resnet34(width_multiplier=0.25).head
        Linear(in_features=128, out_features=10, bias=True)
    """
    return ResNet((3, 4, 6, 3), scaled(64, width_multiplier), in_channels, num_classes, act)


@register("resnet50", paper="He et al. 2015, arXiv 1512.03385")
def resnet50(
    in_channels: int = 3, num_classes: int = 10, act: Act = "relu", width_multiplier: float = 1.0
) -> ResNet:
    """Return ResNet-50 for 32x32 images: 3-4-6-3 bottlenecks, 256-512-1024-2048 channels.

    Example:
        >>> from qact.models import resnet50
        >>> resnet50(width_multiplier=0.125).head
        Linear(in_features=256, out_features=10, bias=True)
    """
    width = scaled(64, width_multiplier)
    return ResNet((3, 4, 6, 3), width, in_channels, num_classes, act, block=Bottleneck)
