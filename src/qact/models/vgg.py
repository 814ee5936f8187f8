"""VGG-16 for small images (Simonyan and Zisserman 2014, arXiv 1409.1556), with BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from qact.models.placement import Act, Placement, placed
from qact.models.registry import register
from qact.models.width import at_least_one, scaled

_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class _Layer(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, act: Placement) -> None:
        super().__init__()
        # The bias is idle before a BatchNorm; the published network counts it.
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = act("act", out_channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class VGG(nn.Module):
    """Stages of 3x3 convolutions with BatchNorm, each closed by 2x2 max pooling; one linear head.

    The usual form for 32x32 images: the two hidden layers of 4096 are left out. Pooling rounds
    up, so that any size of image fits.

    Positions of activations: ``stages.i.j.act``.

    Args:
        stages: channels of the convolutions, stage by stage.
        in_channels: channels of the images.
        num_classes: number of outputs (logits).
        act: see :func:`qact.models.placement.placed`.

    Shapes:
        input ``(N, in_channels, H, W)``, output ``(N, num_classes)``.

    Raises:
        ValueError: a stage is empty or a number is below 1.

    Example:
        >>> from qact.models import VGG
        >>> import torch
        >>> VGG(((4,), (8, 8)), 1, 10)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        stages: Sequence[Sequence[int]],
        in_channels: int,
        num_classes: int,
        act: Act = "relu",
    ) -> None:
        super().__init__()
        if not stages or any(not stage or min(stage) < 1 for stage in stages):
            raise ValueError(f"stages must hold channels of at least 1 each, got {stages!r}")
        at_least_one(in_channels=in_channels, num_classes=num_classes)
        act, channels = placed(act), in_channels
        built = []
        for i, stage in enumerate(stages):
            layers: list[nn.Module] = []
            for j, width in enumerate(stage):
                layers.append(_Layer(channels, width, act.within(f"stages.{i}.{j}")))
                channels = width
            built.append(nn.Sequential(*layers, nn.MaxPool2d(2, ceil_mode=True)))
        self.stages = nn.Sequential(*built)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)
        act.finish()

    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled features before the head."""
        return self.pool(self.stages(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)``."""
        return self.head(self.embed(x))


@register("vgg16", paper="Simonyan and Zisserman 2014, arXiv 1409.1556")
def vgg16(
    in_channels: int = 3, num_classes: int = 10, act: Act = "relu", width_multiplier: float = 1.0
) -> VGG:
    """Return VGG-16 for 32x32 images: 13 convolutions, 14.7 million parameters.

    Example:
        >>> from qact.models import vgg16
        >>> sum(p.numel() for p in vgg16().parameters())
        14728266
    """
    stages = [[scaled(width, width_multiplier) for width in stage] for stage in _VGG16]
    return VGG(stages, in_channels, num_classes, act)
