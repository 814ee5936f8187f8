"""Scores by what a class looks like inside: its activation pattern, its box."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from qact import checks
from qact.scores.outputs import Outputs
from qact.scores.registry import register
from qact.scores.score import FEW, Score, spread
from qact.taps.patterns import Boxes, Patterns


class Specified(Score):
    """Mined from right predictions; each sample of the fit is asked of what the others say."""

    reads = ("logits", "features", "labels")

    def _fit(self, outputs: Outputs) -> None:
        features, labels = outputs.of("features"), outputs.of("labels")
        right = outputs.logits.argmax(1) == labels
        if not bool(right.any()):
            raise ValueError("no prediction of these data is right: nothing can be specified")
        self._specify(outputs.logits.shape[1], features[right].float(), labels[right])

    def _within(self, outputs: Outputs) -> Tensor:
        some = spread(outputs, FEW)
        predicted = some.logits.argmax(1)
        features = some.of("features").float()
        right = predicted == some.of("labels")
        # Wrong predictions are no part of any specification, and are asked of all of it.
        mine, all_ = (self._deviation(features, predicted, apart) for apart in (True, False))
        # Who is alone in a class has nobody to be asked of: as far outside as others are wide.
        return torch.where(right, mine, all_).nan_to_num(posinf=1.0)

    def _score(self, outputs: Outputs) -> Tensor:
        predicted = outputs.logits.argmax(1)
        found = self._deviation(outputs.of("features").float(), predicted, False)
        return found.to(outputs.logits.dtype)

    @abstractmethod
    def _specify(self, classes: int, features: Tensor, labels: Tensor) -> None: ...

    @abstractmethod
    def _deviation(self, features: Tensor, classes: Tensor, apart: bool) -> Tensor: ...


@register("activation_pattern", paper="Geng et al. 2022, arXiv 2210.16114")
class ActivationPattern(Specified):
    """The share of the neurons of the predicted class's pattern that are not as it asks.

    :class:`qact.taps.Patterns` of the features: a neuron is active above 0.

    Args:
        delta: a neuron belongs to a pattern that is (in)active for this share of a class.
    """

    active: Tensor
    count: Tensor

    def __init__(self, delta: float = 0.95) -> None:
        super().__init__()
        self.delta = checks.number("delta", delta, "a share in (0.5, 1]", 0.5, 1)

    def _specify(self, classes: int, features: Tensor, labels: Tensor) -> None:
        found = Patterns(classes, features.shape[1], self.delta).to(features.device)
        found.mine(features, labels)
        self._keep(active=found.active, count=found.count)

    def _deviation(self, features: Tensor, classes: Tensor, apart: bool) -> Tensor:
        found = Patterns(len(self.active), self.active.shape[1], self.delta).to(features.device)
        found.active, found.count = self.active, self.count
        return found.violated(features, classes, apart=apart)


@register("outside_box", paper="Henzinger, Lukina and Schilling 2019, arXiv 1911.09032")
class OutsideBox(Specified):
    """How far the features lie outside the box of the predicted class, in its widths.

    :class:`qact.taps.Boxes` of the features; 0 inside.
    """

    low: Tensor
    high: Tensor

    def _specify(self, classes: int, features: Tensor, labels: Tensor) -> None:
        found = Boxes(classes, features.shape[1]).to(features.device).mine(features, labels)
        self._keep(low=found.low, high=found.high)

    def _deviation(self, features: Tensor, classes: Tensor, apart: bool) -> Tensor:
        found = Boxes(*self.low.shape[1:]).to(features.device)
        found.low, found.high = self.low, self.high
        return found.outside(features, classes, apart=apart)
