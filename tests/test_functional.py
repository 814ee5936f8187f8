"""`quantile_activation`: what the rank promises, contexts and priors, what is refused."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qact import Context
from qact.functional import quantile_activation

ENGINES = ["eager", "cpu", "reference"]
engines = st.sampled_from(ENGINES)
numbers = st.lists(
    st.floats(-1000, 1000, width=32).filter(lambda v: v == 0 or abs(v) > 1e-6),
    min_size=1,
    max_size=50,
)


def column(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def rank(z: Tensor, **options) -> Tensor:
    return quantile_activation(z, **options)[:, 0]


@given(numbers, engines, st.booleans(), st.booleans())
def test_rank_is_monotone_and_in_the_unit_interval(values, engine, grounded, smooth):
    z = column(sorted(values))
    got = rank(z, engine=engine, grounded=grounded, smooth=smooth)
    assert bool(((got >= 0) & (got <= 1)).all())
    assert len(values) == 1 or float(got.diff().min()) >= -1e-6


@given(numbers, engines, st.integers(-40, 40))
def test_the_step_rank_ignores_a_change_of_unit_to_the_bit(values, engine, exponent):
    z = column(values)
    for grounded in (True, False):
        options = {"engine": engine, "smooth": False, "grounded": grounded}
        assert torch.equal(rank(z, **options), rank(z * 2.0**exponent, **options))


@given(numbers, engines, st.floats(0.01, 100), st.floats(-100, 100))
def test_the_ungrounded_rank_ignores_any_increasing_affine_map(values, engine, scale, shift):
    z = column(values).double()
    moved = z * scale + shift
    # The map itself must not merge values.
    if len(moved.unique()) == len(z.unique()):
        options = {"engine": engine, "grounded": False}
        got, want = rank(moved, smooth=False, **options), rank(z, smooth=False, **options)
        torch.testing.assert_close(got, want, atol=1e-9, rtol=0)
    if float(z.std(correction=0)) > 1e-3:
        for bandwidth in ("scott", "silverman", "0.2std"):
            got = rank(moved, bandwidth=bandwidth, **{"engine": engine, "grounded": False})
            want = rank(z, bandwidth=bandwidth, **{"engine": engine, "grounded": False})
            bound = 1e-6 if engine == "reference" else 2 / 400
            assert float((got - want).abs().max()) <= bound


@given(numbers, engines, st.booleans())
def test_one_sided_contexts_keep_to_their_half(values, engine, smooth):
    away = column(values).abs() + 0.01
    options = {"engine": engine, "smooth": smooth}
    assert bool((rank(-away, **options) <= 0.5 + 1e-6).all())
    assert bool((rank(away, **options) >= 0.5 - 1e-6).all())


@given(numbers, numbers, engines)
def test_zero_is_at_one_half(below, above, engine):
    negative, positive = -column(below).abs() - 0.01, column(above).abs() + 0.01
    # Without zeros the largest negative value has all of its half: F(0) = 1/2.
    got = rank(torch.cat([negative, positive]), smooth=False, engine=engine)
    assert float(got[: len(below)].max()) == pytest.approx(0.5, abs=1e-6)
    context = Context(1).add(torch.cat([negative, positive]))
    at_zero = context.rank(torch.zeros(1, 1), smooth=False)
    assert float(at_zero) == pytest.approx(0.5, abs=1e-6)
    # With zeros among the data F(0-) = 1/2, and zeros own their share of the upper half.
    zeros = torch.zeros(len(above), 1)
    got = rank(torch.cat([negative, zeros, positive]), smooth=False, engine=engine)
    assert float(got[: len(below)].max()) == pytest.approx(0.5, abs=1e-6)
    assert float(got[len(below)]) == pytest.approx(0.75, abs=1e-6)


@given(numbers, engines, st.floats(1e-3, 1e3))
def test_one_positive_among_negatives_is_alone_above_one_half(below, engine, positive):
    z = torch.cat([-column(below).abs() - 0.01, torch.tensor([[positive]])])
    got = rank(z, smooth=False, engine=engine)
    assert float(got[-1]) == pytest.approx(1.0)
    assert bool((got[:-1] <= 0.5).all())


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=50), engines)
def test_ties_get_the_top_of_their_block(whole, engine):
    z = column(whole)
    got = rank(z, smooth=False, grounded=False, engine=engine)
    want = (z >= z.T).double().mean(1)
    np.testing.assert_allclose(got.numpy(), want.numpy(), atol=1e-6)


@given(numbers, engines)
def test_order_of_the_batch_does_not_matter(values, engine):
    z = column(values)
    order = torch.randperm(len(values))
    for options in ({"smooth": False}, {"bandwidth": 0.5}):
        got = rank(z[order], engine=engine, **options)
        torch.testing.assert_close(got, rank(z, engine=engine, **options)[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_single_value_is_its_own_context(engine):
    for value, grounded_rank in ((2.0, 0.75), (-2.0, 0.25)):
        z = torch.tensor([[value]])
        assert float(rank(z, engine=engine, grounded=False)) == pytest.approx(0.5)
        assert float(rank(z, engine=engine)) == pytest.approx(grounded_rank)
        assert float(rank(z, engine=engine, grounded=False, smooth=False)) == 1.0
    z = torch.tensor([[2.0]], requires_grad=True)
    for level in ("uniform", "normal", "relu"):
        (grad,) = torch.autograd.grad(
            quantile_activation(z, engine=engine, levels=level, weight=torch.ones(1)).sum(), z
        )
        assert float(grad) == 0.0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e30, -1e30, 1e-30])
def test_a_constant_channel_has_the_middle_of_its_mass_and_no_gradient(engine, value):
    z = torch.full((40, 1), value, requires_grad=True)
    for level in ("uniform", "normal"):
        for grounded, want in ((False, 0.5), (True, 0.25 if value < 0 else 0.75)):
            output = quantile_activation(z, grounded=grounded, levels=level, engine=engine)
            (grad,) = torch.autograd.grad(output, z, torch.randn(40, 1))
            if level == "uniform":
                torch.testing.assert_close(output, torch.full_like(z, want), atol=1e-5, rtol=0)
            assert torch.equal(grad, torch.zeros_like(grad))


SMALL = [(torch.float32, -109, -111), (torch.float32, -60, -124), (torch.float64, -985, -995)]


@pytest.mark.parametrize("grounded", [False, "sides", "continuous"])
@pytest.mark.parametrize("engine", ["eager", "cpu"])
@pytest.mark.parametrize(("dtype", "least", "below"), SMALL)
def test_a_spread_is_followed_down_to_a_bound_and_constant_below(
    engine, dtype, least, below, grounded
):
    # Of no draw's tails: how far a value moves a rank below the bound grows with its distance.
    z = torch.randn(64, 2, dtype=torch.float64).clamp(-2, 2)
    z = (z - z.mean(0)) / z.std(0, correction=0)
    weight = torch.linspace(-1, 1, 128, dtype=dtype).view(64, 2)

    def ranks(exponent, stored):
        x = (z * 2.0**exponent).to(dtype).requires_grad_()
        context = Context(2, dtype=dtype).add(x) if stored else None
        options = {"context": context, "grounded": grounded, "engine": engine}
        rank = quantile_activation(x, levels="uniform", **options)
        (grad,) = torch.autograd.grad(rank, x, weight)
        return rank.detach(), grad.double() * 2.0 ** (exponent // 2) * 2.0 ** -(-exponent // 2)

    for stored in (False, True):
        for found, usual in zip(ranks(least, stored), ranks(0, stored), strict=True):
            torch.testing.assert_close(found, usual, rtol=1e-5, atol=1e-5)
        rank, grad = ranks(below, stored)
        torch.testing.assert_close(rank, torch.full_like(rank, 0.5), rtol=0, atol=0.05)
        assert not grad.any()


# Contexts and priors


@pytest.mark.parametrize("engine", ENGINES)
def test_a_large_prior_is_running_and_a_small_one_is_batch(engine):
    context = Context(3).add(torch.randn(500, 3))
    z = torch.randn(64, 3) * 1.5 + 0.3
    options = {"bandwidth": "0.2std", "engine": engine}
    for grounded in (True, False):
        stored = quantile_activation(z, context=context, grounded=grounded, **options)
        batch = quantile_activation(z, grounded=grounded, **options)
        large, small = (
            quantile_activation(z, context=context, prior=p, grounded=grounded, **options)
            for p in (1e6, 1e-4)
        )
        assert float((large - stored).abs().max()) <= 2 / 400
        assert float((small - batch).abs().max()) <= 2 / 400
        assert float((stored - batch).abs().max()) > 0.02


@pytest.mark.parametrize("engine", ENGINES)
def test_a_prior_of_k_samples_weighs_k_samples(engine):
    # The context holds the same 50 rows that a prior of 50 lets count: as if they were joined.
    old, new = torch.randn(50, 2, 3), torch.randn(30, 2, 3) + 1
    context = Context(2).add(old).add(old).decay(0.25)
    got = quantile_activation(new, context=context, prior=50.0, bandwidth="0.2std", engine=engine)
    want = quantile_activation(torch.cat([old, new]), bandwidth="0.2std", engine=engine)[50:]
    assert float((got - want).abs().max()) <= 2 / 400


@pytest.mark.parametrize(
    ("shape", "dim"), [((40, 3), 1), ((3, 40), 0), ((8, 3, 5), 1), ((8, 5, 3), -1), ((3, 8, 5), 0)]
)
def test_a_prior_counts_samples_wherever_the_channels_stand(shape, dim):
    context = Context(3).add(torch.randn(100, 3))
    z = torch.randn(shape) + 1
    got = quantile_activation(z, dim=dim, context=context, prior=16.0, bandwidth="0.2std")
    first = z.movedim(dim, 1)
    want = quantile_activation(first, context=context, prior=16.0, bandwidth="0.2std")
    torch.testing.assert_close(got.movedim(dim, 1), want, atol=1e-6, rtol=0)


def test_one_sample_of_tokens_has_a_prior_too():
    context = Context(3).add(torch.randn(100, 3))
    z = torch.randn(3)
    got = quantile_activation(z, dim=-1, context=context, prior=16.0)
    want = quantile_activation(z[None], context=context, prior=16.0)[0]
    torch.testing.assert_close(got, want)


def test_a_stored_context_is_read_not_written():
    context = Context(3).add(torch.randn(100, 3))
    before = {k: v.clone() for k, v in context.state_dict().items()}
    z = torch.randn(20, 3, requires_grad=True)
    for prior in (None, 16.0):
        quantile_activation(z, context=context, prior=prior).sum().backward()
    for key, value in context.state_dict().items():
        assert torch.equal(value, before[key])
        assert not value.requires_grad


# What is refused


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"dim": 2}, "dim=2"),
        ({"dim": "1"}, "'1'"),
        ({"dim": 1.0}, "1.0"),
        ({"context": "batch"}, "'batch'"),
        ({"grounded": "no"}, "'no'"),
        ({"smooth": None}, "None"),
        ({"levels": "rellu"}, "'rellu'"),
        ({"bandwidth": "wide"}, "'wide'"),
        ({"bandwidth": -1.0}, "-1.0"),
        ({"bandwidth": math.nan}, "nan"),
        ({"gradient": "exact"}, "'exact'"),
        ({"sentinels": -1.0}, "-1.0"),
        ({"sentinels": math.inf}, "inf"),
        ({"sentinels": "one"}, "'one'"),
        ({"engine": "fast"}, "'fast'"),
        ({"weight": torch.ones(2)}, "(2,)"),
        ({"bias": torch.ones(4)}, "(4,)"),
        ({"prior": 3.0}, "3.0"),
    ],
)
def test_bad_options_are_repeated(options, value):
    with pytest.raises((ValueError, TypeError), match=re.escape(value)):
        quantile_activation(torch.randn(9, 3), **options)


@pytest.mark.parametrize("prior", [0.0, -1.0, math.nan, math.inf, "many"])
def test_bad_priors_are_repeated(prior):
    context = Context(3).add(torch.randn(9, 3))
    with pytest.raises((ValueError, TypeError), match=re.escape(repr(prior))):
        quantile_activation(torch.randn(9, 3), context=context, prior=prior)


@pytest.mark.parametrize("engine", ENGINES)
def test_bad_inputs_are_described(engine):
    with pytest.raises(TypeError, match=r"torch\.int64"):
        quantile_activation(torch.ones(4, 3, dtype=torch.int64), engine=engine)
    with pytest.raises(TypeError, match=r"torch\.complex64"):
        quantile_activation(torch.ones(4, 3, dtype=torch.complex64), engine=engine)
    with pytest.raises(TypeError, match=r"torch\.bool"):
        quantile_activation(torch.ones(4, 3, dtype=torch.bool), engine=engine)
    for shape in ((0, 3), (4, 0), (2, 3, 0)):
        with pytest.raises(ValueError, match=re.escape(str(shape))):
            quantile_activation(torch.ones(shape), engine=engine)
    with pytest.raises(ValueError, match="dim=1"):
        quantile_activation(torch.tensor(1.0), engine=engine)
    context = Context(4).add(torch.randn(9, 4))
    with pytest.raises(ValueError, match="3 channels"):
        quantile_activation(torch.randn(9, 3), context=context, engine=engine)
    with pytest.raises(RuntimeError, match="seen no data"):
        quantile_activation(torch.randn(9, 3), context=Context(3), engine=engine)
