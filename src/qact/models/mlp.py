"""A multilayer perceptron on the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from qact.models.placement import Act, Placement, placed
from qact.models.registry import register
from qact.models.width import at_least_one, scaled


class _Layer(nn.Module):
    def __init__(self, inputs: int, outputs: int, act: Placement, batch_norm: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.norm: nn.Module = nn.BatchNorm1d(outputs) if batch_norm else nn.Identity()
        self.act = act("act", outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.linear(x)))


class MLP(nn.Module):
    """Linear layers on the flattened image, each with BatchNorm and an activation.

    Positions of activations: ``layers.i.act``.

    Args:
        inputs: values of an image, ``C H W``.
        hidden: outputs of each hidden layer, at least one.
        num_classes: number of outputs (logits).
        act: see :func:`qact.models.placement.placed`.
        batch_norm: whether BatchNorm stands before each activation.

    Shapes:
        input ``(N, C, H, W)`` or ``(N, inputs)``, output ``(N, num_classes)``.

    Raises:
        ValueError: ``hidden`` is empty or a number is below 1.

    Example:
        >>> from qact.models import MLP
        >>> net = MLP(784, (300, 100), 10, batch_norm=False)  # LeNet-300-100
        >>> sum(p.numel() for p in net.parameters())
        266610
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        num_classes: int,
        act: Act = "relu",
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden must name at least one layer of at least 1, got {hidden!r}")
        at_least_one(inputs=inputs, num_classes=num_classes)
        act, sizes = placed(act), (inputs, *hidden)
        layers = [
            _Layer(a, b, act.within(f"layers.{i}"), batch_norm)
            for i, (a, b) in enumerate(pairwise(sizes))
        ]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-1], num_classes)
        act.finish()

    def embed(self, x: Tensor) -> Tensor:
        """Return the last hidden layer, ``(N, hidden[-1])``."""
        return self.layers(x.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)``."""
        return self.head(self.embed(x))


@register("mlp", paper="Rumelhart et al. 1986")
def mlp(
    in_channels: int = 1,
    num_classes: int = 10,
    act: Act = "relu",
    width_multiplier: float = 1.0,
    image_size: int = 32,
) -> MLP:
    """Return a perceptron of two hidden layers, 512 and 256, for square images.

    Example:
        >>> from qact.models import mlp
        >>> mlp(image_size=28).layers[0].linear
        Linear(in_features=784, out_features=512, bias=True)
    """
    at_least_one(in_channels=in_channels, image_size=image_size)
    hidden = scaled(512, width_multiplier), scaled(256, width_multiplier)
    return MLP(in_channels * image_size**2, hidden, num_classes, act)
