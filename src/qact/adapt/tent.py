"""TENT: entropy minimisation on scales and shifts."""

from __future__ import annotations

from torch import Tensor

from qact.adapt.entropy import entropy
from qact.adapt.gradient import Gradient
from qact.adapt.registry import register


@register("tent", paper="Wang et al. 2021, arXiv 2006.10726, equation 1", learns="parameters")
class Tent(Gradient):
    """Minimise the mean entropy of the predictions; test-batch statistics.

    The paper's settings for CIFAR: Adam, learning rate 0.001, one step. With learning rate 0 it is
    test-batch statistics alone. Scale and shift of a QAct layer are adapted like those of a norm.

    Args:
        **options: of :class:`qact.adapt.gradient.Gradient`.
    """

    def loss(self, logits: Tensor, x: Tensor) -> Tensor:
        """The mean entropy."""
        return entropy(logits).mean()
