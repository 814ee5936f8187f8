"""The suggested action follows from what moved and from how images come."""

from __future__ import annotations

import pytest
import torch

from qact.monitor import suggest
from qact.monitor.grouping import Grouping
from qact.monitor.reference import Verdict

NAMES = ("input", "1", "logits", "confidence")


@pytest.mark.parametrize(
    ("p", "batch", "alike", "spread", "action"),
    [
        ((0.5, 0.5, 0.5, 0.5), 64, 0.0, 1.0, "source"),
        ((0.001, 0.001, 0.001, 0.001), 64, 0.0, 1.0, "batch"),
        ((0.001, 0.001, 0.001, 0.001), 64, 0.4, 1.0, "safe"),
        ((0.001, 0.001, 0.001, 0.001), 64, 0.0, 3.0, "safe"),
        ((0.001, 0.001, 0.001, 0.001), 4, 0.0, 1.0, "recalibrate"),
        ((0.5, 0.001, 0.001, 0.001), 64, 0.0, 1.0, "retrain"),
        ((0.5, 0.5, 0.001, 0.5), 64, 0.0, 1.0, "source"),
    ],
)
def test_the_action_follows_from_what_moved(p, batch, alike, spread, action):
    p_values = dict(zip(NAMES, p, strict=True))
    verdict = Verdict(256, p_values, p_values, min(p), 0.0, batch, alike, spread)
    assert suggest(verdict).action == action


def test_correlation_of_sorted_and_of_shuffled_calls():
    draw = torch.Generator().manual_seed(0)
    kinds = torch.randn(50, 1, 1, 1, generator=draw)
    noise = torch.randn(50, 8, 1, 1, generator=draw)
    for shift, expected in ((kinds, 0.5), (0 * kinds, 0.0)):
        grouping = Grouping()
        for call in shift + noise:
            grouping.add({"x": call})
        assert grouping.alike("x") == pytest.approx(expected, abs=0.12)
