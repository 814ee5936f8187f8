"""Logits to rows.

One row is one (activation, loss, adaptation, stream, corruption, severity, seed) with its metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from qact.bench.adapt import predict
from qact.bench.inputs import Inputs, permutation
from qact.bench.recipe import Recipe
from qact.calibration import (
    accuracy,
    brier_score,
    calibration_error,
    negative_log_likelihood,
    reliability,
    risk_coverage,
)
from qact.shift import streams

KEY = ("activation", "loss", "adaptation", "stream", "corruption", "severity", "seed")
METRICS = ("accuracy", "nll", "brier", "ece", "ece_debiased")
BINS = 15
COVERAGES = 20  # points of the risk-coverage curve

Key = tuple[Any, ...]
Row = dict[str, Any]


def key_of(row: Row) -> Key:
    """Return what makes a row unique."""
    return tuple(row[name] for name in KEY)


def wanted(recipe: Recipe, activation: str, seed: int) -> list[Key]:
    """Return the keys of all rows of a cell, condition by condition.

    Example:
        >>> from qact.bench import Recipe
        >>> wanted(Recipe(), "relu", 0)[0]
        ('relu', 'cross_entropy', 'frozen', 'iid', 'none', 0, 0)
    """
    loss, stream = recipe.training.loss, recipe.shift.stream
    return [
        (activation, loss, adaptation, stream, corruption, severity, seed)
        for corruption, severity in recipe.shift.conditions()
        for adaptation in recipe.shift.adaptations
    ]


def evaluate(
    model: nn.Module,
    inputs: Inputs,
    keys: list[Key],
    corruption_seed: int,
    advance: Callable[[int], None],
) -> Iterator[Row]:
    """Yield one row per key, each measured on the whole test set."""
    for key in keys:
        named = dict(zip(KEY, key, strict=True))
        images = inputs.shifted(named["corruption"], named["severity"], corruption_seed)
        order = arrival(named["stream"], inputs.test_labels.cpu(), named["seed"])
        logits = predict(model, images, named["adaptation"], order)
        yield named | measure(logits.cpu(), inputs.test_labels.cpu())
        advance(len(images))


def arrival(stream: str, labels: Tensor, seed: int) -> Tensor:
    """Return the order in which the test images of one condition arrive, for dealing into batches.

    ``"iid"`` is a random one; the others are those of :mod:`qact.shift.streams`.

    Example:
        >>> labels = torch.tensor([1, 0, 1, 0])
        >>> labels[arrival("sorted", labels, 0)].tolist()
        [0, 0, 1, 1]
    """
    if stream == "iid":
        return permutation(len(labels), seed)
    blank = torch.zeros(len(labels), 1, 1, 1)  # a stream plans by labels; the images are ours
    plan = streams.stream(stream, blank, labels, corruptions=["contrast"], severity=0, seed=seed)
    return torch.cat([step.index for step in plan.steps])


def measure(logits: Tensor, labels: Tensor) -> Row:
    """Return every metric of one test set, by one estimator each, computed in float64.

    ``ece`` is the plain top-label error, ``p=1``, 15 bins of equal width. ``ece_debiased`` is the
    estimator of Kumar et al. 2019, ``p=2``, 15 bins of equal mass, root of the estimate clipped at
    0. ``bins`` holds the reliability diagram over the bins of equal width; ``risk`` and ``aurc``
    are the error rates of the most confident.

    Example:
        >>> row = measure(torch.tensor([[4.0, 0.0], [0.0, 4.0]]), torch.tensor([0, 1]))
        >>> row["accuracy"], round(row["ece"], 4)
        (1.0, 0.018)
    """
    if not torch.isfinite(logits).all():
        raise FloatingPointError("the network's logits are not finite")
    probs = logits.double().softmax(1)
    bins = reliability(probs, labels, n_bins=BINS)
    return {
        "n": len(labels),
        "accuracy": accuracy(probs, labels),
        "nll": negative_log_likelihood(probs, labels),
        "brier": brier_score(probs, labels),
        "ece": calibration_error(probs, labels, n_bins=BINS),
        "ece_debiased": calibration_error(
            probs, labels, n_bins=BINS, binning="equal_mass", p=2, debias=True
        ),
        "bins": {
            "count": [int(count) for count in bins.count],
            "confidence": [round(float(value), 6) for value in bins.confidence],
            "accuracy": [round(float(value), 6) for value in bins.accuracy],
        },
        **_selective(probs, labels),
    }


def _selective(probs: Tensor, labels: Tensor) -> Row:
    """Return the error rates of the most confident 5%, 10%, ..., 100%, and the area under all."""
    risk = risk_coverage(probs, labels)[1]
    last = [max(1, round(len(risk) * k / COVERAGES)) - 1 for k in range(1, COVERAGES + 1)]
    return {"risk": [round(float(risk[i]), 6) for i in last], "aurc": risk.mean().item()}


@torch.inference_mode()
def single_sample_gap(model: nn.Module, inputs: Inputs, count: int = 32) -> float:
    """Return how far logits of images predicted one by one are from those of the frozen batch.

    It says that ``frozen`` rows are what single samples get; rounding alone should remain. In
    float64, since a step rank turns the rounding of float32 into a step.
    """
    model = deepcopy(model).double()
    images = inputs.shifted("none", 0, 0)[:count].double()
    together = predict(model, images, "frozen", torch.arange(len(images)))
    alone = [predict(model, image[None], "frozen", torch.arange(1)) for image in images]
    return (together - torch.cat(alone)).abs().max().item()
