"""Interval bounds as a score: how much another class can gain within a radius."""

from __future__ import annotations

import torch
from torch import Tensor

from qact import checks
from qact.activations.bounds import Bounds
from qact.activations.intervals import Box
from qact.scores.gradients import Differentiating
from qact.scores.outputs import Outputs
from qact.scores.registry import register


@register("interval_bounds", paper="Gowal et al. 2018, arXiv 1810.12715")
class IntervalBounds(Differentiating):
    """How much another class can gain on the predicted one within ``|x' - x| <= eps``, by bounds.

    :meth:`qact.activations.bounds.Bounds.gains`: ``max_{k != y} sup (f_k - f_y)``. Below 0 the
    prediction is certified: nothing in the box changes it. With ``eps=0`` it is minus the margin.
    Interval bounds of networks that were not trained for them are loose beyond a few layers.

    Args:
        eps: half of the box's side, in units of the inputs that the network gets.
    """

    def __init__(self, eps: float = 1e-4) -> None:
        super().__init__()
        self.eps = checks.within("eps", eps, 0)

    def _score(self, outputs: Outputs) -> Tensor:
        box, y = Box.about(outputs.of("inputs"), self.eps), outputs.logits.argmax(1)
        gain = Bounds(self._bound().model).gains(*box, y)
        # There is no other class than the only one, and nothing that it gains on itself.
        return gain if outputs.logits.shape[1] > 1 else torch.zeros_like(gain)
