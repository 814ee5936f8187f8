"""Scores fitted on recorded contexts: no pass over the data, and how far from the raw fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qact
from qact import scores
from qact.context import Context
from qact.recalibrate import attach, record, remove
from qact.scores import Panel, Reader
from qact.scores.registry import SCORES

FROM_CONTEXT = [name for name in SCORES if name != "nac" and SCORES[name].from_context]


@pytest.fixture
def recorded(model, loader):
    yield record(model, loader, inputs=True, bins=512)
    remove(model)


def test_which_scores_a_context_is_enough_for():
    assert FROM_CONTEXT == ["dice", "react", "vra"]


@pytest.mark.parametrize("name", FROM_CONTEXT)
def test_a_context_is_as_good_as_the_features(recorded, loader, inside, outside, name):
    raw = scores.create(name).fit(recorded, loader)
    read = scores.create(name).fit(recorded)
    for some in (inside, outside):
        gap = (raw.score(some) - read.score(some)).abs() / raw.score(inside).std()
        assert gap.mean() < 0.002
        assert gap.max() < 0.05  # VRA jumps where a feature passes its threshold
    read.observe(inside)
    assert read.threshold(0.1) == pytest.approx(
        scores.create(name).fit(recorded).observe(inside).threshold(0.1)
    )


def test_nac_of_the_features_themselves(recorded, loader, inside):
    raw = scores.NAC(1.0, gradient=False).fit(recorded, loader)
    read = scores.NAC(1.0, gradient=False).fit(recorded)
    assert (raw.score(inside) - read.score(inside)).abs().max() < 0.02
    with pytest.raises(ValueError, match="NAC cannot be fitted on a context"):
        scores.NAC().fit(recorded)


def test_what_needs_no_fit_takes_any_context(recorded, inside):
    panel = Panel(["msp", "energy", "react", "vra", "scale", "ash"])
    with pytest.raises(ValueError, match="scale: SCALE cannot be fitted on a context"):
        panel.fit(recorded)


def test_contexts_of_others_are_refused(recorded, model, loader):
    with pytest.raises(ValueError, match="a context of 5 channels is not one of the 12 features"):
        scores.ReAct().fit(model, Context(5).add(torch.randn(9, 5)))
    with pytest.raises(RuntimeError, match="has seen no data"):
        scores.ReAct().fit(model, Context(12))
    other = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3))
    with pytest.raises(ValueError, match="no stored context of its features; give a loader"):
        scores.ReAct().fit(other)


def test_contexts_of_two_halves_merge_to_that_of_all(model, loader, inside):
    width = Reader(model).head.in_features
    features = Reader(model).gather(loader).features
    halves = [Context(width).add(part) for part in features.split(300)]
    together = Context(width).add(features)
    merged = scores.ReAct().fit(model, halves[0] + halves[1])
    assert torch.equal(merged.clip, scores.ReAct().fit(model, together).clip)


def test_inputs_are_recorded_beside_outputs(model, loader):
    before = set(model.state_dict())
    record(model, loader, where="0")
    record(model, loader, inputs=True)
    assert isinstance(model[4].input_context, Context)
    assert model[4].input_context.num_features == 12
    assert model[0].source_context.num_features == 16
    state = model.state_dict()
    remove(model)
    assert set(model.state_dict()) == before
    attach(model, where="0")
    attach(model, inputs=True)
    model.load_state_dict(state)
    assert not model[4].input_context.is_empty
    remove(model)
    with pytest.raises(ValueError, match="Sequential has no nn"):
        record(nn.Sequential(nn.ReLU()), loader, inputs=True)
    assert qact.scores is scores
