"""Narrow models, and values that overflow once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qact
from qact import adapt

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(3)) + 1
LEARNING = adapt.methods(learns="parameters")


def network(kind: str = "norm") -> nn.Sequential:
    torch.manual_seed(1)
    norm = nn.BatchNorm1d(4) if kind == "norm" else qact.QAct(4)
    model = nn.Sequential(nn.Linear(3, 4), norm, nn.ReLU(), nn.Linear(4, 3))
    for _ in range(5):
        model(torch.randn(32, 3))
    return model.eval()


def sure() -> nn.Sequential:
    """Sure predictions, which every method learns from."""
    model = network()
    model[3].weight.data.mul_(20)
    return model


def create(name: str, model: nn.Module, **options: object) -> adapt.Method:
    dtype = next(model.parameters()).dtype
    own = {"cotta": {"views": 2}, "aqr": {"source": X.to(dtype)}}.get(name, {})
    if name in ("rotta", "note", "safe"):
        own = {"every": 4}
    return adapt.create(name, model, **own, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", adapt.methods())
def test_a_narrow_model_gets_narrow_and_finite_logits(name, dtype):
    for kind in ("norm", "qact") if name != "aqr" else ("norm",):
        method = create(name, network(kind).to(dtype))
        for _ in range(3):
            logits = method(X.to(dtype))
            assert logits.dtype == dtype
            assert torch.isfinite(logits).all()


@pytest.mark.own_seed  # some samples have to count
@pytest.mark.parametrize("name", LEARNING)
def test_small_steps_of_a_narrow_model_are_taken(name):
    """Around 1, bfloat16 has steps of 0.004 and 0.008: one of 0.001 would be lost."""
    options = {"lr": 1e-3} | ({"margin": 10.0} if name in ("eata", "sar") else {})
    method = create(name, sure().bfloat16(), **options)
    weight = dict(method.model.named_parameters())["1.weight"]
    start = weight.detach().clone()
    for _ in range(2):
        method(X.bfloat16())
    assert not torch.equal(start, weight)
    method.reset()
    assert torch.equal(start, weight)


def test_a_narrow_model_is_not_widened_in_place():
    model = network().half()
    with pytest.raises(ValueError, match=r"'tent' learns in float32, .* torch.float16"):
        adapt.create("tent", model, inplace=True)
    assert model[0].weight.dtype == torch.float16
    assert all(p.requires_grad for p in model.parameters())


def test_the_fisher_information_takes_narrow_and_spoilt_samples():
    source = torch.cat([X, torch.full((1, 3), torch.nan)])
    eata = adapt.create("eata", network().bfloat16(), source=source.bfloat16())
    assert all(bool(torch.isfinite(f).all()) for f in eata.fisher)
    assert any(float(f.sum()) > 0 for f in eata.fisher)
    with pytest.raises(ValueError, match="1 finite samples of 2; it needs 2 or more"):
        adapt.create("eata", network(), source=source[-2:])


@pytest.mark.parametrize("name", adapt.methods())
def test_an_overflow_passes(name):
    """Finite inputs, but values that are not between the layers."""
    method = create(name, network())
    method(X)
    method(X * 3e38)
    assert torch.isfinite(method(X)).all()


@pytest.mark.own_seed  # some samples have to count
@pytest.mark.parametrize("name", LEARNING)
def test_what_overflows_does_not_end_the_learning(name):
    own = {"eata": {"margin": 10.0, "redundant": 1.0}, "sar": {"collapse": 1e-9}}
    options = {"lr": 1e-3} | own.get(name, {})
    method = create(name, sure(), **options)
    for x in (X, X * 3e38, X * 3e38):
        method(x)
    weight = dict(method.model.named_parameters())["1.weight"]
    before = weight.detach().clone()
    method(X)
    method(X)
    assert torch.isfinite(weight).all()
    assert not torch.equal(before, weight)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [1e37, 3e38])
def test_an_overflow_at_the_start_passes(seed, size):
    """A channel's deviation may overflow where its mean does not."""
    draw = torch.Generator().manual_seed(seed)
    x, other = (torch.randn(12, 3, generator=draw) + 1 for _ in range(2))
    x = x / x.abs().max()  # every row is a number
    delta, plain = create("delta", network()), create("delta", network())
    for batch in (x * size, x, other):
        found = delta(batch)
    plain(x)
    torch.testing.assert_close(found, plain(other), rtol=1e-3, atol=2e-3)


def test_a_single_huge_sample_at_the_start_does_not_last():
    """Its deviation is 0, from which a usual mean is infinitely far."""
    model = network()
    model[0].weight.data.abs_().add_(0.1)  # far in every channel
    delta, plain = create("delta", model), create("delta", model)
    delta(torch.full((1, 3), 1e38))
    torch.testing.assert_close(delta(X), plain(X))
    torch.testing.assert_close(delta(X + 1), plain(X + 1))
