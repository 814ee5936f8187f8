"""The continuous grounded rank: no jump where a value crosses zero, in any engine or context."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from qact import Context, QAct
from qact.functional import quantile_activation
from qact.kernels.plan import Plan
from qact.rank.bandwidth import parse
from qact.rank.rule import Rule

ENGINES = ["reference", "eager", "cpu"]
STEP = 1e-7  # how far a value moves to cross zero


def rank(z: Tensor, **options) -> Tensor:
    return quantile_activation(z, **{"grounded": "continuous", "bandwidth": "0.2std"} | options)


def phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def by_hand(at: float, values: list[float], h: float, sentinels: float = 0.0) -> float:
    """``G / (2 q)`` below zero, ``1/2 + (G - q) / (2 (1 - q))`` above: sums in plain Python."""
    n = len(values)
    below = sum(phi((at - v) / h) for v in values)
    zero = sum(phi(-v / h) for v in values)
    if at < 0:
        return (below + sentinels) / (2 * (zero + sentinels))
    return 0.5 + (below - zero) / (2 * (n - zero + sentinels))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("sentinels", [0.0, 1.0])
def test_the_rank_by_hand(engine, sentinels):
    values = [-2.0, -0.3, -0.1, 0.05, 0.4, 0.9, 3.0]
    z = torch.tensor(values, dtype=torch.float64)[:, None]
    got = rank(z, bandwidth=0.5, sentinels=sentinels, engine=engine)[:, 0]
    want = [by_hand(v, values, 0.5, sentinels) for v in values]
    bound = 1e-12 if engine == "reference" else 2e-3
    assert got.tolist() == pytest.approx(want, abs=bound)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_batch_of_the_report(engine):
    # By the signs alone the third value's rank, and all others, jump: 0 to .157 of a normal score.
    there = []
    for middle in (-STEP, STEP):
        z = torch.tensor([-2.0, -1.0, middle, 1.0, 2.0, 3.0])[:, None]
        there.append(rank(z, levels="relu", engine=engine)[:, 0])
    assert (there[0] - there[1]).abs().max() <= 1e-5


contexts = st.lists(
    st.floats(-3, 3, allow_subnormal=False).map(lambda v: v + 0.01 * (1 if v >= 0 else -1)),
    min_size=2,
    max_size=30,
).filter(lambda values: max(values) - min(values) > 0.5)


@settings(deadline=None, max_examples=60)
@given(contexts, st.sampled_from(ENGINES), st.sampled_from(["0.2std", "scott", 0.3]))
def test_a_value_may_cross_zero(values, engine, bandwidth):
    moved = []
    for middle in (-STEP, STEP):
        z = torch.tensor([*values, middle], dtype=torch.float64)[:, None]
        moved.append(rank(z, bandwidth=bandwidth, engine=engine)[:, 0])
    spread = float(z.std(correction=0))
    h = bandwidth if isinstance(bandwidth, float) else 0.2 * spread
    # |dF_i / dz_j| <= a phi(0) / (h n) each for the value, the zero and the query itself, with
    # a <= n; a place in a histogram is rounded to 1/256 of a bin.
    slope = 3 * 0.4 / h * len(z)
    bound = slope * 2 * STEP if engine == "reference" else 2e-3
    assert (moved[0] - moved[1]).abs().max() <= bound


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bandwidth", ["0.2std", "scott", 0.4])
def test_finite_differences_across_zero_are_the_gradient(engine, bandwidth):
    torch.manual_seed(0)
    z = torch.randn(64, 4, dtype=torch.float64)
    z[:8] *= 1e-4  # many within the step
    direction, g = torch.randn_like(z), torch.randn_like(z)
    # The slope of a value's own rank has a kink at zero: leave those out of the loss, and no more.
    g[:8] = 0

    def loss(z: Tensor) -> Tensor:
        return (g * rank(z, bandwidth=bandwidth, levels="normal", engine="reference")).sum()

    start = z.clone().requires_grad_()
    output = rank(start, bandwidth=bandwidth, levels="normal", engine=engine)
    (grad,) = torch.autograd.grad((g * output).sum(), start)
    step = 2e-4
    difference = (loss(z + step * direction) - loss(z - step * direction)) / (2 * step)
    want = (grad * direction).sum()
    scale = (grad.abs() * direction.abs()).sum()
    assert (difference - want).abs() <= (2e-5 if engine == "reference" else 0.01) * scale


@pytest.mark.parametrize("gradient", ["full", "density"])
@pytest.mark.parametrize("bandwidth", ["0.2std", "scott", 0.4])
def test_gradcheck_near_zero(gradient, bandwidth):
    z = torch.tensor([-1.5, -0.6, -1e-4, 1e-4, 0.7, 1.1, 2.0], dtype=torch.float64)[:, None]
    context = Context(1, dtype=torch.float64).add(torch.randn(40, 1, dtype=torch.float64))
    z.requires_grad_()

    def stored(z):
        return rank(z, gradient=gradient, context=context, bandwidth=bandwidth, engine="reference")

    def own(z):
        return rank(z, bandwidth=bandwidth, levels="normal", engine="reference")

    assert gradcheck(stored, z)
    assert gradcheck(own, z)


def test_zero_is_the_median_of_every_context():
    zero = torch.zeros(1, 1)
    for z in (torch.randn(50, 1), torch.randn(50, 1).exp(), -torch.rand(9, 1), torch.zeros(3, 1)):
        context = Context(1).add(z)
        assert float(context.rank(zero, grounded="continuous")) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_missing_side_keeps_its_half_at_infinity(engine, sign):
    context = Context(1).add(sign * (torch.rand(200, 1) + 2))
    q = sign * torch.tensor([[-50.0], [-1.0], [-1e-6], [0.0], [1.0], [60.0]])
    got = rank(q, context=context, engine=engine)[:, 0]
    want = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5, 1.0 if sign > 0 else 0.0])
    assert (got - want).abs().max() <= 1e-4


def test_a_trace_of_a_side_is_not_half_of_the_mass():
    # A running context has long forgotten its one negative value: by the signs it owns half still.
    context = Context(1).add(torch.tensor([[-1.0]])).decay(1e-6).add(torch.rand(100, 1) + 1)
    q = torch.tensor([[-5.0]])
    assert float(context.rank(q, grounded="sides", bandwidth=0.1)) == pytest.approx(0.0, abs=1e-3)
    got = float(context.rank(q, grounded="continuous", bandwidth=0.1))
    assert got == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_equal_values(engine):
    for value, want in ((2.0, 0.75), (-2.0, 0.25), (0.0, 0.5)):
        z = torch.full((5, 1), value, requires_grad=True)
        got = rank(z, engine=engine)
        assert got.flatten().tolist() == pytest.approx([want] * 5, abs=1e-6)
        (grad,) = torch.autograd.grad(got.sum(), z)
        assert torch.equal(grad, torch.zeros_like(grad))


def test_contexts_merge_as_their_values_do():
    a, b = torch.randn(80, 2), 0.1 * torch.randn(300, 2) + 0.05
    q = torch.linspace(-3, 3, 101)[:, None].expand(-1, 2)
    options = {"grounded": "continuous", "bandwidth": 0.3}
    merged = Context(2).add(a).merge(Context(2).add(b)).rank(q, **options)
    together = Context(2).add(torch.cat([a, b])).rank(q, **options)
    assert (merged - together).abs().max() <= 2e-3


def test_the_density_is_the_slope_of_the_rank():
    context = Context(1, dtype=torch.float64).add(torch.randn(500, 1, dtype=torch.float64) + 0.5)
    at = torch.tensor([-2.0, -0.5, -0.05, 0.05, 0.5, 2.0], dtype=torch.float64)[:, None]
    options = {"grounded": "continuous", "bandwidth": 0.4}
    step = 0.02
    rise = context.rank(at + step, **options) - context.rank(at - step, **options)
    assert (context.density(at, **options) - rise / (2 * step)).abs().max() <= 2e-3
    below, above = context.density(torch.tensor([[-1e-6], [1e-6]]).double(), **options).tolist()
    share = float(context.rank(torch.zeros(1, 1).double(), grounded=False, bandwidth=0.4))
    assert below[0] / above[0] == pytest.approx((1 - share) / share, rel=0.02)


def test_a_step_has_no_width_to_ground_over():
    z = torch.randn(30, 2)
    both = [quantile_activation(z, grounded=g, smooth=False) for g in ("sides", "continuous")]
    assert torch.equal(*both)
    assert Rule("continuous", smooth=False) == Rule("sides", smooth=False)


@pytest.mark.parametrize("shape", [(300, 3), (20, 3, 5, 5)])
def test_training_stored_and_mixed_layers_agree_with_the_definition(shape):
    torch.manual_seed(0)
    x = torch.randn(shape).exp() - 1
    layer = QAct(3, grounded="continuous", momentum=None)
    batch = layer(x)
    exact = quantile_activation(
        x.double(), levels="relu", grounded="continuous", bandwidth="0.2std", engine="reference"
    )
    assert (batch - exact).abs().max() <= 0.02
    with torch.no_grad():
        stored = layer.eval()(x)
    assert (stored - exact).abs().max() <= 0.03
    compiled = torch.ops.qact.recall(
        x.flatten(2) if x.dim() > 2 else x[:, :, None],
        [*layer.context.tensors, layer.context.batches],
        layer.weight,
        layer.bias,
        None,
        "relu",
        layer._numbers,
    )
    assert torch.equal(compiled.reshape(shape), stored)


def test_how_it_is_called():
    assert QAct(2, grounded=True).rule == QAct(2).rule
    assert QAct(2, grounded=True).rule.grounded in ("sides", "continuous")
    assert "grounded='continuous'" in repr(QAct(2, grounded="continuous"))
    with pytest.raises(ValueError, match=r"grounded='both' is unknown; choose one of .*'sides'"):
        QAct(2, grounded="both")
    with pytest.raises(TypeError, match="grounded=1 must be one of"):
        QAct(2, grounded=1)
    for rule in (Rule("continuous"), Rule("sides"), Rule(False)):
        assert Plan.of(Plan(rule, "relu").numbers()).rule == rule
        assert pickle.loads(pickle.dumps(rule)) == rule


def test_what_was_pickled_before_keeps_its_rule():
    old = Rule.__new__(Rule)
    old.__setstate__({**Rule("sides", bandwidth=parse(0.5)).__dict__, "grounded": True})
    assert old == Rule("sides", bandwidth=parse(0.5))
