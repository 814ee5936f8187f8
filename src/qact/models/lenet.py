"""LeNet-5 (LeCun et al. 1998) with any activation and max pooling."""

from __future__ import annotations

from torch import Tensor, nn

from qact.models.placement import Act, placed
from qact.models.registry import register
from qact.models.width import at_least_one, scaled

_LEAST = 16  # pixels: below that the second pooling leaves nothing


class LeNet(nn.Module):
    """Two 5x5 convolutions with pooling and two hidden layers.

    Positions of activations: ``act1`` and ``act2`` behind the convolutions, ``act3`` and ``act4``
    behind the linear layers.

    Args:
        in_channels: channels of the images.
        num_classes: number of outputs (logits).
        act: see :func:`qact.models.placement.placed`.
        width_multiplier: scales the channels 6-16 and the layers 120-84. The paper's
            "over-parametrised" LeNet is not specified; a multiplier above 1 is one.
        image_size: side of the images, at least 16.
        batch_norm: whether BatchNorm stands before each activation; the original has none.

    Shapes:
        input ``(N, in_channels, image_size, image_size)``, output ``(N, num_classes)``.

    Raises:
        ValueError: the images are smaller than 16 pixels, or a number is below 1.

    Example:
        >>> from qact.models import LeNet
        >>> sum(p.numel() for p in LeNet(batch_norm=False).parameters())
        61706
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        act: Act = "relu",
        width_multiplier: float = 1.0,
        image_size: int = 32,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        at_least_one(in_channels=in_channels, num_classes=num_classes)
        if image_size < _LEAST:
            raise ValueError(f"image_size must be at least {_LEAST}, got {image_size!r}")
        act = placed(act)
        a, b, c, d = (scaled(width, width_multiplier) for width in (6, 16, 120, 84))
        side = ((image_size - 4) // 2 - 4) // 2

        def norm(kind: type[nn.Module], channels: int) -> nn.Module:
            return kind(channels) if batch_norm else nn.Identity()

        self.conv1 = nn.Conv2d(in_channels, a, 5)
        self.norm1 = norm(nn.BatchNorm2d, a)
        self.act1 = act("act1", a)
        self.conv2 = nn.Conv2d(a, b, 5)
        self.norm2 = norm(nn.BatchNorm2d, b)
        self.act2 = act("act2", b)
        self.pool = nn.MaxPool2d(2)
        self.linear1 = nn.Linear(b * side**2, c)
        self.norm3 = norm(nn.BatchNorm1d, c)
        self.act3 = act("act3", c)
        self.linear2 = nn.Linear(c, d)
        self.norm4 = norm(nn.BatchNorm1d, d)
        self.act4 = act("act4", d)
        self.head = nn.Linear(d, num_classes)
        act.finish()

    def embed(self, x: Tensor) -> Tensor:
        """Return the last hidden layer."""
        x = self.pool(self.act1(self.norm1(self.conv1(x))))
        x = self.pool(self.act2(self.norm2(self.conv2(x)))).flatten(1)
        x = self.act3(self.norm3(self.linear1(x)))
        return self.act4(self.norm4(self.linear2(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)``."""
        return self.head(self.embed(x))


@register("lenet", paper="LeCun et al. 1998")
def lenet(
    in_channels: int = 1,
    num_classes: int = 10,
    act: Act = "relu",
    width_multiplier: float = 1.0,
    image_size: int = 32,
) -> LeNet:
    """Return :class:`LeNet` with BatchNorm.

    Example:
        >>> from qact.models import lenet
        >>> lenet(width_multiplier=4).head
        Linear(in_features=336, out_features=10, bias=True)
    """
    return LeNet(in_channels, num_classes, act, width_multiplier, image_size)
