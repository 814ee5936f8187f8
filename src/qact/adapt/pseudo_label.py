"""Pseudo-labels: cross-entropy to one's own predictions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from qact import checks
from qact.adapt.gradient import Gradient
from qact.adapt.registry import register


@register(
    "pseudo_label",
    paper="Lee 2013, ICML workshop on challenges in representation learning, equation 15",
    learns="parameters",
)
class PseudoLabel(Gradient):
    """Cross-entropy to the most likely class of each sample; test-batch statistics.

    Args:
        threshold: confidence from which on a label is believed; 0 believes all, as in the paper.
        **options: of :class:`qact.adapt.gradient.Gradient`.
    """

    def __init__(self, model: nn.Module, *, threshold: float = 0.0, **options: object) -> None:
        super().__init__(model, **options)  # type: ignore[arg-type]
        valid = "a confidence, 0 to 1"
        self.threshold = (
            0.0 if threshold == 0 else checks.number("threshold", threshold, valid, 0, 1)
        )

    def loss(self, logits: Tensor, x: Tensor) -> Tensor | None:
        """Mean over the samples that are believed."""
        confidence, label = logits.detach().softmax(1).max(1)
        believed = confidence >= self.threshold
        return cross_entropy(logits[believed], label[believed]) if bool(believed.any()) else None
