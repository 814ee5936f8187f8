"""What a classifier says of batches, and how right it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact.calibration import accuracy, calibration_error
from qact.surgery import batches as batches_of
from qact.surgery import call


@dataclass(frozen=True)
class Scores:
    """Of predictions: accuracy and expected calibration error in [0, 1], mean loss in nats."""

    accuracy: float
    loss: float
    ece: float


def scored(logits: Tensor, labels: Tensor) -> Scores:
    """Accuracy, mean loss and expected calibration error."""
    wide = logits.double()
    probs, labels = wide.softmax(1), labels.to(wide.device)
    loss = float(F.cross_entropy(wide, labels))
    return Scores(accuracy(probs, labels), loss, calibration_error(probs, labels))


def logits_of(model: nn.Module, batch: Any) -> Tensor:
    """What ``model`` says of a batch, (N, classes); of named outputs ``logits``.

    Raises:
        TypeError: it returns no logits. ValueError: one of them is not finite.
    """
    output = call(model, batch)
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor) or output.dim() != 2:
        shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(f"the model returns {shown}; it must return logits (N, classes)")
    if not bool(torch.isfinite(output).all()):
        raise ValueError(f"the model returns {output[~torch.isfinite(output)][0].item()}")
    return output


def labelled(given: Any, name: str) -> list[tuple[Any, Tensor]]:
    """Batches with their labels; (images, labels) alone is one batch."""
    single = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Tensor)
    found = []
    for batch in [given] if single else batches_of(given, name):
        labels = batch.get("labels") if isinstance(batch, Mapping) else None
        if isinstance(batch, tuple | list) and len(batch) > 1:
            labels = batch[1]
        if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
            raise TypeError(f"{name} must be batches of (images, labels), labels integers (N,)")
        found.append((batch, labels))
    if not found:
        raise ValueError(f"{name} is empty")
    return found
