"""Residual networks for small images (He et al. 2015, arXiv 1512.03385; the CIFAR stem of 3x3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

ActivationFactory = Callable[[int], nn.Module]


def relu(channels: int) -> nn.Module:
    """The default activation factory: ReLU, which does not care how many channels it sees."""
    return nn.ReLU()


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    # No bias: the BatchNorm behind every convolution has one.
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """``act(bn(conv(act(bn(conv(x))))) + shortcut(x))``: BatchNorm stands before each activation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution and of the shortcut.
        act: activation factory, called with the channel count at each place.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, act: ActivationFactory = relu
    ) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act1 = act(out_channels)
        self.conv2 = _conv(out_channels, out_channels, 3)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act2 = act(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                _conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, ceil(H/s), ceil(W/s))``."""
        hidden = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.bn2(self.conv2(hidden)) + self.shortcut(x))


def _stage(
    count: int, in_channels: int, out_channels: int, stride: int, act: ActivationFactory
) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride, act)
    rest = [BasicBlock(out_channels, out_channels, 1, act) for _ in range(count - 1)]
    return nn.Sequential(first, *rest)


class ResNet(nn.Module):
    """A residual network of basic blocks for images of about 16x16 to 64x64 pixels.

    A 3x3 stem of stride 1 keeps the resolution, one of stride 2 halves it; stage ``i`` has
    ``blocks[i]`` blocks of ``width * 2**i`` channels, and every stage but the first halves height
    and width. ResNet-18 and ResNet-34 are this class with other numbers (:func:`resnet18`,
    :func:`resnet34`).

    Args:
        blocks: number of blocks of each stage, each at least 1.
        width: channels of the first stage.
        in_channels: channels of the images.
        num_classes: number of outputs (logits).
        act: activation factory; ``act(channels)`` returns a fresh module for one place.
        stem_stride: stride of the first convolution.

    Shapes:
        input ``(N, in_channels, H, W)``, output ``(N, num_classes)``; the dtype of the weights.

    Raises:
        ValueError: ``blocks`` is empty, or a number is below 1.

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
        act: ActivationFactory = relu,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        _check(
            blocks,
            width=width,
            in_channels=in_channels,
            num_classes=num_classes,
            stem_stride=stem_stride,
        )
        self.stem = nn.Sequential(
            _conv(in_channels, width, 3, stem_stride), nn.BatchNorm2d(width), act(width)
        )
        stages, channels = [], width
        for i, count in enumerate(blocks):
            stages.append(_stage(count, channels, width * 2**i, 1 if i == 0 else 2, act))
            channels = width * 2**i
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def embed(self, x: Tensor) -> Tensor:
        """Return the pooled features before the head, ``(N, width * 2**(stages - 1))``."""
        return self.pool(self.stages(self.stem(x))).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)`` for images ``(N, in_channels, H, W)``."""
        return self.head(self.embed(x))


def _check(blocks: Sequence[int], **numbers: int) -> None:
    if not blocks or min(blocks) < 1:
        raise ValueError(f"blocks must name at least one stage of at least 1 block, got {blocks!r}")
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number!r}")


def _scaled(base: int, multiplier: float) -> int:
    width = round(base * multiplier)
    if width < 1:
        raise ValueError(f"width_multiplier {multiplier!r} leaves no channels of {base}")
    return width


def resnet_small(
    in_channels: int = 1,
    num_classes: int = 10,
    act: ActivationFactory = relu,
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
    width = _scaled(8, width_multiplier)
    return ResNet((1, 1, 1), width, in_channels, num_classes, act, stem_stride=2)


def resnet18(
    in_channels: int = 3,
    num_classes: int = 10,
    act: ActivationFactory = relu,
    width_multiplier: float = 1.0,
) -> ResNet:
    """Return ResNet-18 for 32x32 images: stages of 2-2-2-2 blocks, 64-128-256-512 channels.

    Example:
        >>> from qact.models import resnet18
        >>> sum(p.numel() for p in resnet18().parameters())
        11173962
    """
    return ResNet((2, 2, 2, 2), _scaled(64, width_multiplier), in_channels, num_classes, act)


def resnet34(
    in_channels: int = 3,
    num_classes: int = 10,
    act: ActivationFactory = relu,
    width_multiplier: float = 1.0,
) -> ResNet:
    """Return ResNet-34 for 32x32 images: stages of 3-4-6-3 blocks, 64-128-256-512 channels.

    Example:
        >>> from qact.models import resnet34
        >>> resnet34(width_multiplier=0.25).head
        Linear(in_features=128, out_features=10, bias=True)
    """
    return ResNet((3, 4, 6, 3), _scaled(64, width_multiplier), in_channels, num_classes, act)
