"""What is no tensor is refused in one way, with its type, wherever a tensor is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import qact
from qact import checks
from qact.calibration import TemperatureScaling, binary_calibration_error, brier_score
from qact.losses import triplet_loss, watershed_loss
from qact.registry import unknown

LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "name", "kind"),
    [
        (lambda: binary_calibration_error([0.3, 0.35], LABELS), "confidence", "list"),
        (lambda: binary_calibration_error(np.ones(2), np.ones(2)), "confidence", "ndarray"),
        (lambda: brier_score(torch.eye(2), [0, 1]), "labels", "list"),
        (lambda: triplet_loss([[0.0, 1], [1, 0]], [0, 1]), "embeddings", "list"),
        (lambda: watershed_loss(torch.eye(2), (0, 1)), "labels", "tuple"),
        (lambda: TemperatureScaling().fit(np.eye(2), LABELS), "logits", "ndarray"),
        (lambda: qact.QAct(3)([[1.0, 2, 3]]), "input", "list"),
        (lambda: qact.functional.quantile_activation(np.ones((4, 3))), "input", "ndarray"),
        (lambda: qact.Context(3).add(np.ones((4, 3))), "input", "ndarray"),
    ],
)
def test_what_is_no_tensor_is_named(call, name, kind):
    with pytest.raises(TypeError, match=f"{name} must be a tensor, got {kind}; torch.as_tensor"):
        call()


def test_labels_of_logits_of_one_dimension():
    with pytest.raises(ValueError, match=r"for logits \(\.\.\., C\) of shape \(10,\), got \(10,\)"):
        TemperatureScaling().fit(torch.randn(10), torch.zeros(10, dtype=torch.long))


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.5, float("inf")])
def test_a_value_outside_the_unit_interval_is_named(bad):
    for make in (np.asarray, torch.tensor):
        values = make([[0.0, 1.0], [bad, 0.5]])
        with pytest.raises(ValueError, match=rf"got {bad:g} \(1 of 4 values do not\)"):
            checks.unit("x", values)
        checks.unit("x", make([]))
        checks.unit("x", make([0.0, 1.0]))


def test_a_value_that_is_a_tensor_is_not_printed_whole():
    value = np.zeros((40, 40))
    for check in (
        lambda: checks.choice("context", value, ("running", "batch")),
        lambda: checks.choice("context", torch.zeros(40, 40), ("running", "batch")),
        lambda: checks.integer("k", value),
        lambda: checks.number("p", "x" * 10_000, "a number", 0),
        lambda: unknown("loss", value, ["a", "b"]),
    ):
        with pytest.raises((TypeError, ValueError)) as found:
            raise check()  # `unknown` returns its error
        assert len(str(found.value)) < 400
        assert "\n" not in str(found.value)
    assert checks.choice("power", np.int64(2), (1, 2)) == 2
