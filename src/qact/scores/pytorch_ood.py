"""Detectors of pytorch-ood as scores, and scores as its detectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qact.scores.outputs import Outputs
from qact.scores.score import Score


class FromPytorchOOD(Score):
    """A detector of pytorch-ood (any version with ``fit_features`` or ``fit_logits``) as a score.

    It gets the features or logits that a panel's one pass has read, as far as it has methods for
    them; any other detector gets the inputs, and its own network. Both packages let larger mean
    more outlying.
    """

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector
        for part in ("features", "logits"):
            if hasattr(detector, f"predict_{part}"):
                self.part = part
                break
        else:
            self.part = "inputs"
        self.reads = ("logits",) if self.part == "logits" else ("logits", self.part)

    def _fit(self, outputs: Outputs) -> None:
        if not getattr(self.detector, "requires_fit", True):
            return
        if self.part == "inputs":
            kept = outputs.first(len(outputs.of("inputs")))
            labels = kept.of("labels")
            with torch.enable_grad():
                self.detector.fit([(kept.of("inputs"), labels)])
        else:
            # Without labels any of 0 or more will do: those below 0 are outliers there.
            known = outputs.labels is not None
            labels = outputs.of("labels") if known else outputs.logits.argmax(1)
            getattr(self.detector, f"fit_{self.part}")(outputs.of(self.part), labels)

    def _within(self, outputs: Outputs) -> Tensor:
        if self.part == "inputs":
            outputs = outputs.first(len(outputs.of("inputs")))
        return super()._within(outputs)

    def _score(self, outputs: Outputs) -> Tensor:
        given = outputs.of(self.part)
        if self.part != "inputs":
            return getattr(self.detector, f"predict_{self.part}")(given)
        with torch.enable_grad():
            return self.detector.predict(given).detach()


class ToPytorchOOD:
    """A score with the methods of a detector of pytorch-ood: ``fit(loader)``, ``predict(x)``."""

    def __init__(self, score: Score, model: nn.Module) -> None:
        self.score, self.model = score, model

    def fit(self, data_loader: Any) -> ToPytorchOOD:
        """Fit on what the loader marks as in-distribution, labels of 0 or more."""
        known = ((x[y >= 0], y[y >= 0]) for x, y in data_loader if (y >= 0).any())
        self.score.fit(self.model, known)
        return self

    def predict(self, x: Tensor) -> Tensor:
        """Outlier scores (N,)."""
        return self.score.score(x)

    __call__ = predict


def from_pytorch_ood(detector: Any) -> FromPytorchOOD:
    """Return a detector of pytorch-ood as a :class:`qact.scores.Score`; nothing is imported.

    Raises:
        TypeError: it has no ``predict``.
    """
    if not callable(getattr(detector, "predict", None)):
        raise TypeError(f"{detector!r} is no detector of pytorch-ood: it has no predict")
    return FromPytorchOOD(detector)


def to_pytorch_ood(score: Score, model: nn.Module) -> ToPytorchOOD:
    """Return a score as what the loops and metrics of pytorch-ood call a detector."""
    return ToPytorchOOD(score, model)
