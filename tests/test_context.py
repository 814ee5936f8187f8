"""`Context`: what it counts, what it answers, what it survives, what it refuses."""

from __future__ import annotations

import copy
import math
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from qact import Context, QAct
from qact.context import TENSORS

numbers = st.lists(
    st.floats(-100, 100, width=32).filter(lambda v: v == 0 or abs(v) > 1e-6),
    min_size=1,
    max_size=60,
)


def column(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def state(context: Context) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in context.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype, key
        assert torch.equal(a[key], b[key]), key


def queries(z: Tensor) -> Tensor:
    reach = float(z.abs().amax()) * 2 + 1
    return torch.cat([z[:, 0], torch.linspace(-reach, reach, 301)]).sort().values[:, None]


# What a rank is


@given(numbers, st.booleans(), st.booleans())
def test_rank_is_monotone_and_in_the_unit_interval(values, grounded, smooth):
    z = column(values)
    rank = Context(1).add(z).rank(queries(z), grounded=grounded, smooth=smooth)
    assert bool((rank >= 0).all())
    assert bool((rank <= 1).all())
    assert float(rank.diff(dim=0).min()) >= (-1e-6 if smooth else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("values", [[0.0, 1.0], [-1.0, 0.0], [-3.0, 5.0, 5.0], [2.0], [-4.0, -1.0]])
def test_step_rank_counts_what_is_not_larger(values, dtype):
    """Also where a value stands on the first edge of the grid, or on the last."""
    z = column(values).to(dtype)
    asked = torch.cat([z - 1e-3, z, z + 1e-3, torch.tensor([[-1e4], [1e4]])])
    wanted = torch.stack([(z <= query).double().mean() for query in asked])
    rank = Context(1, dtype=dtype).add(z).rank(asked, grounded=False, smooth=False)[:, 0]
    torch.testing.assert_close(rank.double(), wanted, rtol=0, atol=1e-6)


@given(numbers, st.booleans())
def test_step_rank_goes_from_nothing_to_everything(values, grounded):
    z = column(values)
    far = torch.tensor([[-1e4], [1e4]])
    low, high = Context(1).add(z).rank(far, grounded=grounded, smooth=False)[:, 0].tolist()
    some_below, some_above = bool((z < 0).any()), bool((z >= 0).any())
    assert low == pytest.approx(0.5 if grounded and not some_below else 0, abs=1e-6)
    assert high == pytest.approx(0.5 if grounded and not some_above else 1, abs=1e-6)


@pytest.mark.parametrize("bandwidth", ["scott", "silverman", "0.2std", 0.5])
@pytest.mark.parametrize("shape", ["coin", "uniform", "one_positive", "relu", "normal"])
def test_smooth_rank_goes_from_nothing_to_everything(shape, bandwidth):
    g, u = torch.randn(300, 1), torch.rand(300, 1)
    z = {
        "coin": (u < 0.5).float(),
        "uniform": u,
        "one_positive": torch.cat([-g[1:].abs(), torch.full((1, 1), 0.3)]),
        "relu": g.relu(),
        "normal": g,
    }[shape]
    context = Context(1).add(z)
    followed = QAct(1, bandwidth=bandwidth)
    followed(z)
    for one in (context, followed.context):
        for grounded in (True, False):
            ends = one.rank(torch.tensor([[-60.0], [60.0]]), grounded=grounded, bandwidth=bandwidth)
            low = 0.5 if grounded and not (z < 0).any() else 0.0
            assert float(ends[0]) == pytest.approx(low, abs=1 / 400)
            assert float(ends[1]) == pytest.approx(1.0, abs=1 / 400)


@given(numbers)
def test_ties_get_the_top_of_their_block(values):
    z = column(values).round()  # whole numbers: blocks of ties, each in a bin of its own
    got = Context(1).add(z).rank(z, grounded=False, smooth=False)[:, 0]
    want = (z[None, :, 0] <= z).float().mean(1)
    np.testing.assert_allclose(got.numpy(), want.numpy(), atol=1e-6)


def test_a_value_just_below_a_block_is_below_it():
    context = Context(1).add(column([-1.0, 0.5, 0.5, 0.5, 2.0]))
    got = context.rank(column([0.45, 0.5, 0.55]), grounded=False, smooth=False)[:, 0]
    assert got.tolist() == pytest.approx([0.2, 0.8, 0.8])


@given(numbers, st.integers(-20, 20))
def test_ranks_follow_a_change_of_unit(values, exponent):
    z = column(values)
    scale = 2.0**exponent
    for smooth in (True, False):
        a = Context(1).add(z).rank(z, smooth=smooth)
        b = Context(1).add(z * scale).rank(z * scale, smooth=smooth)
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_density_is_the_slope_of_the_rank_and_integrates_to_one():
    context = Context(1).add(torch.randn(2000, 1))
    q = torch.linspace(-8, 8, 3201, dtype=torch.float64)[:, None]
    for grounded in (True, False):
        rank = context.rank(q, grounded=grounded)[:, 0]
        slope = context.density(q, grounded=grounded)[:, 0]
        step = float(q[1] - q[0])
        assert float(slope.sum() * step) == pytest.approx(1.0, abs=2e-3)
        central = (rank[2:] - rank[:-2]) / (2 * step)
        assert float((central - slope[1:-1]).abs().max()) <= 0.02 * float(slope.max())
    assert bool((context.density(q) >= 0).all())


# Quantiles


@pytest.mark.parametrize("grounded", [True, False])
@pytest.mark.parametrize("shape", ["normal", "lognormal", "student"])
def test_quantiles_invert_ranks(grounded, shape):
    g = torch.randn(4000, 1)
    z = {"normal": g, "lognormal": g.exp() - 1, "student": g / torch.rand(4000, 1).sqrt()}[shape]
    context = Context(1).add(z)
    q = torch.linspace(0.01, 0.99, 99)
    at = context.quantile(q, grounded=grounded)
    assert at.shape == (1, 99)
    assert bool((at.diff(dim=1) >= 0).all())
    back = context.rank(at.T, grounded=grounded, smooth=False)[:, 0]
    histogram = context.histogram
    largest_bin = float(histogram.mass.amax() / histogram.count) * (2 if grounded else 1)
    assert float((back - q).abs().max()) <= largest_bin + 1e-4


def test_ungrounded_quantiles_are_those_of_numpy():
    z = torch.randn(5000)
    q = torch.linspace(0.02, 0.98, 49)
    got = Context(1).add(z[:, None]).quantile(q)[0]
    want = np.quantile(z.numpy(), q.numpy())
    np.testing.assert_allclose(got.numpy(), want, atol=0.03)


@pytest.mark.parametrize("grounded", [True, False])
def test_outermost_quantiles_are_the_ends_of_the_data(grounded):
    # A context of two scales: the grid is far wider than either.
    for z in (torch.rand(300) + 1, torch.randn(300) * 3 - 1, torch.rand(200) - 7):
        context = Context(1).add(z[:, None])
        width = float(context.histogram.grid.width(torch.float64))
        wanted = torch.tensor([0.0, 1.0])
        if grounded and not (z < 0).any():
            wanted = torch.tensor([0.5, 1.0])
        if grounded and not (z >= 0).any():
            wanted = torch.tensor([0.0, 0.5])
        low, high = context.quantile(wanted, grounded=grounded)[0].tolist()
        assert low == pytest.approx(float(z.min()), abs=1.01 * width)
        assert high == pytest.approx(float(z.max()), abs=1.01 * width)


def test_zero_is_the_grounded_median():
    z = torch.randn(3000, 1) + 1.5
    context = Context(1).add(z)
    assert float(context.quantile(0.5, grounded=True).abs()) <= 0.05
    assert float(context.rank(torch.zeros(1, 1), smooth=False)) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, [0.5, 2.0]])
def test_bad_quantiles_are_refused(bad):
    context = Context(1).add(torch.randn(9, 1))
    shown = bad[1] if isinstance(bad, list) else bad
    with pytest.raises(ValueError, match=str(shown)[:4]):
        context.quantile(torch.tensor(bad) if isinstance(bad, list) else bad)


# Adding up


@given(st.lists(numbers, min_size=2, max_size=4))
def test_adding_one_by_one_or_merging_is_the_same(batches):
    one_by_one = Context(1)
    for batch in batches:
        one_by_one.add(column(batch))
    merged = Context(1).add(column(batches[0]))
    for batch in batches[1:]:
        merged = merged + Context(1).add(column(batch))
    assert_same(state(one_by_one), state(merged))
    assert int(one_by_one.batches) == len(batches)
    assert float(one_by_one.count) == sum(len(b) for b in batches)


def test_the_sum_is_new_and_merge_is_in_place():
    a, b = Context(2).add(torch.randn(20, 2)), Context(2).add(torch.randn(30, 2))
    before_a, before_b = state(a), state(b)
    both = a + b
    assert_same(state(a), before_a)
    assert_same(state(b), before_b)
    assert a.merge(b) is a
    assert_same(state(a), state(both))
    assert_same(state(b), before_b)


def test_merging_with_itself_doubles_the_mass():
    a = Context(2).add(torch.randn(20, 2))
    before = state(a)
    a.merge(a)
    assert torch.equal(a.count, torch.tensor([40.0, 40.0]))
    z = torch.randn(50, 2)
    twin = Context(2)
    twin.load_state_dict(before)
    torch.testing.assert_close(a.rank(z, smooth=False), twin.rank(z, smooth=False))
    torch.testing.assert_close(a.std, before["std"])


def test_contexts_of_other_resolutions_merge():
    z = torch.randn(500, 1)
    fine, coarse = Context(1, bins=512).add(z[:250]), Context(1, bins=128).add(z[250:])
    both = fine + coarse
    assert both.bins == 512
    assert float(both.count) == 500
    exact = Context(1).add(z)
    assert float((both.rank(z) - exact.rank(z)).abs().max()) <= 1 / 400


@given(numbers, st.sampled_from([1.0, 0.5, 0.3, 1e-3]))
def test_decay_scales_the_mass_and_nothing_else(values, factor):
    z = column(values)
    context = Context(1).add(z).compact()  # single values, which quantiles know, go with decay
    before = state(context)
    rank, place = context.rank(z, smooth=False), context.quantile(0.25432)
    assert context.decay(factor) is context
    assert float(context.count) == pytest.approx(len(values) * factor, rel=1e-5)
    torch.testing.assert_close(context.rank(z, smooth=False), rank, atol=1e-5, rtol=0)
    torch.testing.assert_close(context.quantile(0.25432), place, atol=1e-3, rtol=1e-4)
    for name in ("mean", "std", "exponent", "offset", "batches"):
        assert torch.equal(before[name], getattr(context, name))


def test_to_forget_everything_is_to_begin_again():
    fresh = torch.randn(50, 1)
    context = Context(1).add(torch.randn(50, 1) + 1e8).decay(0.0)
    assert context.is_empty
    again, new = context.add(fresh), Context(1).add(fresh)
    for name in ("mass", "moment", "exponent", "offset"):
        assert torch.equal(getattr(again, name), getattr(new, name))
    torch.testing.assert_close(again.mean, new.mean)
    torch.testing.assert_close(again.std, new.std)


@pytest.mark.parametrize("bad", [-0.1, 1.5, math.nan])
def test_bad_decay_is_refused_and_changes_nothing(bad):
    context = Context(1).add(torch.randn(9, 1))
    before = state(context)
    with pytest.raises(ValueError, match=re.escape(repr(bad))):
        context.decay(bad)
    assert_same(state(context), before)


def test_zeros_cost_no_resolution():
    small = torch.randn(1000, 1) * 1e-3
    context = Context(1).add(torch.zeros(100, 1)).add(small)
    got = context.rank(small, grounded=False, smooth=False)
    want = Context(1).add(torch.cat([torch.zeros(100, 1), small]))
    want = want.rank(small, grounded=False, smooth=False)
    assert float((got - want).abs().max()) <= 0.01


def test_a_dead_unit_that_wakes_up_is_seen():
    layer = QAct(1, levels="uniform", affine=False, momentum=0.1)
    layer(torch.zeros(64, 1))
    z = torch.randn(256, 1) * 1e-3
    for _ in range(100):
        layer(torch.randn(256, 1) * 1e-3)
    got = layer.eval()(z)[:, 0]
    want = torch.special.ndtr(z[:, 0] / 1e-3)
    assert float((got - want).abs().max()) <= 0.05


# Following


def distance_to_normal(context: Context, mean: float = 0.0, std: float = 1.0) -> float:
    q = torch.linspace(-3, 3, 121)[:, None] * std + mean
    want = norm.cdf((q[:, 0].numpy() - mean) / std)
    got = context.rank(q, grounded=False, bandwidth="0.05std")[:, 0].detach().numpy()
    return float(np.abs(got - want).max())


def test_running_contexts_converge_to_the_true_distribution():
    layer = QAct(1, momentum=None)
    errors = []
    for batch in range(256):
        layer(torch.randn(128, 1) * 2 + 1)
        if batch + 1 in (1, 16, 256):
            errors.append(distance_to_normal(layer.context, 1.0, 2.0))
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] <= 0.015
    assert int(layer.context.batches) == 256


@pytest.mark.parametrize("engine", ["eager", "cpu"])
@pytest.mark.parametrize("batches", [100, 300, 1000])  # what is left: little, rounding, denormal
@torch.no_grad()
def test_a_side_seen_long_ago_leaves_the_other_alone(engine, batches):
    values = torch.linspace(-1.3, -0.1, 64)[:, None]  # bins reach above zero, and are empty there
    never, once = (QAct(1, levels="uniform", engine=engine) for _ in range(2))
    once(values + 1)
    for _ in range(batches):
        never(values), once(values)
    never.eval(), once.eval()
    assert float(never(values).std()) > 0.1
    torch.testing.assert_close(once(values), never(values), atol=2e-3, rtol=0)


def test_with_a_momentum_the_context_follows_a_drift():
    layer = QAct(1, momentum=0.1)
    for _ in range(100):
        layer(torch.randn(256, 1))
    for _ in range(100):
        layer(torch.randn(256, 1) * 3 + 20)
    assert distance_to_normal(layer.context, 20.0, 3.0) <= 0.04
    assert float(layer.context.mean) == pytest.approx(20.0, abs=0.5)
    assert float(layer.context.std) == pytest.approx(3.0, abs=0.3)


def test_the_first_batches_are_averaged_whatever_the_momentum():
    a, b = torch.randn(64, 1), torch.randn(64, 1) + 1
    layer = QAct(1, momentum=0.01)
    layer(a)
    layer(b)
    q = torch.linspace(-3, 4, 50)[:, None]
    both = Context(1).add(a).add(b).rank(q, grounded=False, bandwidth=0.3)
    assert float((layer.context.rank(q, grounded=False, bandwidth=0.3) - both).abs().max()) <= 5e-3
    assert float(layer.context.count) == pytest.approx(64)


@pytest.mark.parametrize(("freak", "patience"), [(1e6, 100), (-1e6, 100), (1e30, 200)])
def test_running_contexts_recover_from_a_freak_value(freak, patience):
    layer = QAct(1, momentum=0.1)
    for _ in range(30):
        layer(torch.randn(256, 1))
    bad = torch.randn(256, 1)
    bad[17] = freak
    layer(bad)
    for _ in range(patience):
        layer(torch.randn(256, 1))
    assert distance_to_normal(layer.context) <= 0.04
    assert float(layer.context.histogram.grid.width(torch.float64)) < 0.1


def test_running_contexts_recover_from_a_freak_batch():
    layer = QAct(1, momentum=0.1)
    for batch in range(200):
        layer(torch.randn(256, 1) * (1e8 if batch == 50 else 1.0))
    assert distance_to_normal(layer.context) <= 0.04


def test_a_channel_that_is_not_finite_is_left_as_it_was():
    layer = QAct(3)
    layer(torch.randn(32, 3))
    for bad in (math.nan, math.inf, -math.inf):
        before = state(layer.context)
        z = torch.randn(32, 3)
        z[5, 1] = bad
        layer(z)
        for name in TENSORS:
            if name == "batches":
                continue
            old, new = before[name], getattr(layer.context, name)
            assert torch.equal(old[1], new[1]), name
        assert not torch.equal(before["mass"][0], layer.context.mass[0])
        assert not torch.equal(before["mass"][2], layer.context.mass[2])
        assert bool(torch.isfinite(layer.context.mass).all())


# What is refused


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nothing_is_added_of_an_input_that_is_not_finite(bad):
    context = Context(2).add(torch.randn(9, 2))
    before = state(context)
    z = torch.randn(9, 2)
    z[3, 1] = bad
    with pytest.raises(ValueError, match=str(bad)):
        context.add(z)
    assert_same(state(context), before)


def test_shapes_and_dtypes_that_do_not_fit():
    context = Context(3)
    with pytest.raises(ValueError, match=re.escape("(4, 5)")):
        context.add(torch.randn(4, 5))
    with pytest.raises(ValueError, match=re.escape("(0, 3)")):
        context.add(torch.randn(0, 3))
    with pytest.raises(TypeError, match=r"torch\.int64"):
        context.add(torch.ones(4, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="dim=2"):
        context.add(torch.randn(4, 3), dim=2)
    assert context.is_empty
    context.add(torch.randn(4, 3))
    with pytest.raises(ValueError, match=re.escape("(4, 5)")):
        context.rank(torch.randn(4, 5))


@pytest.mark.parametrize("question", ["rank", "density", "quantile"])
def test_a_context_that_saw_nothing_has_no_answer(question):
    argument = 0.5 if question == "quantile" else torch.randn(4, 2)
    with pytest.raises(RuntimeError, match="seen no data"):
        getattr(Context(2), question)(argument)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"num_features": 0}, "0"),
        ({"num_features": -2}, "-2"),
        ({"num_features": 2.5}, "2.5"),
        ({"num_features": "3"}, "'3'"),
        ({"num_features": 3, "bins": 4}, "4"),
        ({"num_features": 3, "bins": 20.5}, "20.5"),
    ],
)
def test_bad_options_are_repeated(options, value):
    with pytest.raises((ValueError, TypeError), match=re.escape(value)):
        Context(**options)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"grounded": "yes"}, "'yes'"),
        ({"smooth": 1}, "1"),
        ({"bandwidth": "wide"}, "'wide'"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_options_of_a_rank_are_repeated(options, value):
    with pytest.raises((ValueError, TypeError), match=re.escape(value)):
        Context(1).add(torch.randn(9, 1)).rank(torch.randn(3, 1), **options)


def test_what_cannot_be_merged():
    context = Context(3).add(torch.randn(9, 3))
    before = state(context)
    with pytest.raises(ValueError, match="4 channels into a context of 3"):
        context.merge(Context(4).add(torch.randn(9, 4)))
    with pytest.raises((ValueError, TypeError), match="str"):
        context.merge("other")
    assert_same(state(context), before)


# State


def test_buffers_never_parameters():
    context = Context(3).add(torch.randn(9, 3).requires_grad_())
    assert list(context.parameters()) == []
    assert {name for name, _ in context.named_buffers()} == {*TENSORS, "tails"}
    assert {name for name, _ in Context(3).named_buffers()} == set(TENSORS)
    assert not any(b.requires_grad for b in context.buffers())


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_are_equal_and_independent(copier):
    context = Context(3).add(torch.randn(50, 3))
    twin = copier(context)
    assert_same(state(twin), state(context))
    before = state(context)
    twin.add(torch.randn(50, 3))
    assert_same(state(context), before)
    assert_same(state(context.clone()), before)


def test_state_round_trip_is_exact_and_goes_on():
    a, b = torch.randn(50, 3), torch.randn(50, 3)
    context = Context(3).add(a)
    loaded = Context(3)
    loaded.load_state_dict(context.state_dict())
    assert_same(state(loaded), state(context))
    assert_same(state(loaded.add(b)), state(context.add(b)))


@pytest.mark.parametrize("name", ["mass", "moment", "mean", "std"])
@pytest.mark.parametrize("damage", ["nan", "inf", "negative", "shape", "missing", "no tensor"])
def test_a_corrupt_state_is_refused_whole(name, damage):
    context = Context(3).add(torch.randn(50, 3))
    before = state(context)
    damaged = dict(Context(3).add(torch.randn(50, 3)).state_dict())
    value = damaged[name].clone()
    if damage in ("nan", "inf"):
        value.view(-1)[0] = float(damage)
    elif damage == "negative":
        if name == "mean":  # may be negative
            value = value[:1]
        else:
            value.view(-1)[0] = -1.0
    elif damage == "shape":
        value = value[..., :-1]
    damaged[name] = [1.0] if damage == "no tensor" else value
    if damage == "missing":
        del damaged[name]
    with pytest.raises(RuntimeError, match=name):
        context.load_state_dict(damaged)
    assert_same(state(context), before)


@pytest.mark.parametrize(
    ("name", "value"), [("exponent", 5000), ("exponent", -5000), ("offset", 2**60), ("batches", -3)]
)
def test_whole_numbers_that_no_context_can_have(name, value):
    context = Context(3).add(torch.randn(50, 3))
    before = state(context)
    damaged = {k: v.clone() for k, v in context.state_dict().items()}
    damaged[name].fill_(value)
    with pytest.raises(RuntimeError, match=name):
        context.load_state_dict(damaged)
    assert_same(state(context), before)


def test_a_moment_cannot_exceed_its_mass():
    context = Context(3).add(torch.randn(50, 3))
    before = state(context)
    damaged = {k: v.clone() for k, v in context.state_dict().items()}
    damaged["moment"] += 10
    with pytest.raises(RuntimeError, match="moment"):
        context.load_state_dict(damaged)
    assert_same(state(context), before)


def test_a_missing_key_loads_nothing_even_when_not_strict():
    context = Context(3).add(torch.randn(50, 3))
    before = state(context)
    partial = dict(Context(3).add(torch.randn(50, 3)).state_dict())
    del partial["offset"]
    report = context.load_state_dict(partial, strict=False)
    assert report.missing_keys == ["offset"]
    assert_same(state(context), before)


def test_statistics_stay_in_single_precision_or_better():
    context = Context(3).add(torch.randn(50, 3))
    before = state(context)
    for cast in (context.half, context.bfloat16, context.float):
        cast()
        assert_same(state(context), before)
    context.double()
    assert context.mass.dtype == torch.float64
    assert torch.equal(context.mass.float(), before["mass"])
    context.half()
    assert context.mass.dtype in (torch.float32, torch.float64)
    assert torch.equal(context.exponent.float(), before["exponent"])


def test_double_precision_contexts_answer_in_it():
    z = torch.randn(500, 1, dtype=torch.float64)
    context = Context(1, dtype=torch.float64).add(z)
    rank = context.rank(z)
    assert rank.dtype == torch.float64
    assert context.rank(z.float()).dtype == torch.float32
    torch.testing.assert_close(rank.float(), Context(1).add(z).rank(z.float()), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("shape", "dim"), [((6, 3), 1), ((3, 6), 0), ((2, 3, 4, 5), 1), ((2, 5, 3), -1)]
)
def test_every_dim(shape, dim):
    z = torch.randn(shape)
    context = Context(3).add(z, dim=dim)
    rank = context.rank(z, dim=dim, smooth=False)
    assert rank.shape == z.shape
    for c in range(3):
        single = Context(1).add(z.select(dim, c).reshape(-1, 1))
        want = single.rank(z.select(dim, c).reshape(-1, 1), smooth=False)
        assert torch.equal(rank.select(dim, c).reshape(-1, 1), want)


def test_rank_of_what_is_not_a_number():
    context = Context(1).add(torch.randn(50, 1))
    z = torch.tensor([[math.nan], [math.inf], [-math.inf], [0.0]])
    for smooth in (True, False):
        got = context.rank(z, smooth=smooth)[:, 0]
        assert math.isnan(float(got[0]))
        assert float(got[1]) == pytest.approx(1.0, abs=1e-3)
        assert float(got[2]) == pytest.approx(0.0, abs=1e-3)
        assert float(got[3]) == pytest.approx(float(context.rank(torch.zeros(1, 1), smooth=smooth)))


def test_questions_leave_the_context_as_it_was():
    context = Context(2).add(torch.randn(50, 2))
    before = state(context)
    z = torch.randn(9, 2).requires_grad_()
    context.rank(z).sum().backward()
    context.density(z)
    context.quantile(0.3)
    assert_same(state(context), before)
    assert z.grad is not None


def test_print():
    assert "3, bins=64" in repr(Context(3, 64))


@pytest.mark.parametrize("unit", [1.0, 1e307, 1e305, 1e-170, 1e-290])
def test_float64_has_the_same_context_in_every_unit(unit):
    shape = torch.randn(500, 1, dtype=torch.float64).clamp(-8, 8)
    z = shape * unit
    context = Context(1, dtype=torch.float64).add(z)
    followed = QAct(1, dtype=torch.float64)
    followed(z)
    for one in (context, context + context, followed.context):
        assert float(one.mean) / unit == pytest.approx(float(shape.mean()), abs=1e-4)
        assert float(one.std) / unit == pytest.approx(float(shape.std(correction=0)), rel=1e-4)
        want = (z >= z.T).double().mean(1, keepdim=True)
        got = one.rank(z, grounded=False, smooth=False)
        # Half of the fullest bin: what stands in one is told apart by its mean alone.
        assert float((got - want).abs().max()) <= float((one.mass.amax() / one.count).max()) + 1e-9
        middle = float(one.quantile(0.5)) / unit
        assert middle == pytest.approx(float(shape.median()), abs=0.05)


@pytest.mark.parametrize("exponent", [-112, -126, -130, -140, -148])
def test_values_that_bins_cannot_tell_apart_are_refused_not_ranked(exponent):
    z = (torch.randn(500, 1, dtype=torch.float64) * 2.0**exponent).float()
    context = Context(2).add(torch.cat([torch.randn(500, 1), z], 1))
    for question in (context.rank, context.density):
        with pytest.raises(ValueError, match=r"channel 1 spread .* multiply the values by a power"):
            question(torch.zeros(3, 2))
    assert context.cdf(torch.tensor([[0.0, -1.0], [0.0, 1.0]]))[:, 1].tolist() == [0, 1]
    want = (z >= z.T).float().mean(1, keepdim=True)
    for dtype in (torch.float32, torch.float64):  # of the values, not of the context
        fine = Context(1, dtype=torch.float64).add(z.to(dtype))
        got = fine.rank(z.to(dtype), grounded=False, smooth=False)
        assert got.dtype == dtype
        assert (got - want).abs().max() <= (fine.mass.amax() / fine.count).max()


def test_constant_channels_are_ranked_whatever_their_value():
    for value in (0.0, 1.0, 1e-30, 1e-42):
        rank = Context(1).add(torch.full((50, 1), value)).rank(torch.tensor([[value]]))
        assert rank.item() == pytest.approx(0.5, abs=0.26)


# Counts without end, and averages that are none


def test_one_more_is_counted_beyond_two_to_the_24th():
    context = Context(1).add(torch.zeros(2**20, 1))
    for _ in range(4):
        context.merge(context.clone())
    assert float(context.count) == 2**24
    for _ in range(10):
        context.add(torch.zeros(1, 1))
    assert float(context.count) == 2**24 + 10
    assert float(context.merge(Context(1).add(torch.ones(1, 1))).count) == 2**24 + 11
    assert float(context.mean) == pytest.approx(1 / (2**24 + 11), rel=1e-3)
    loaded = Context(1)
    loaded.load_state_dict(context.state_dict())
    for one in (loaded, context.clone(), copy.deepcopy(context).half(), context.float()):
        assert float(one.add(torch.zeros(1, 1)).count) == 2**24 + 12
        assert one.rank(torch.zeros(1, 1), smooth=False).dtype == torch.float32
        assert one.quantile(0.5).dtype == torch.float32
        one.decay(0.5)


def two_grids() -> tuple[QAct, QAct]:
    one, two = QAct(3), QAct(3)
    one(torch.randn(64, 3))
    two(3 * torch.randn(64, 3) + 5)
    return one, two


def averages():
    """Standard recipes that take the mean of two models, buffers included."""

    def own(one, two):
        a, b = one.state_dict(), two.state_dict()
        one.load_state_dict({k: (0.9 * a[k] + 0.1 * b[k]).to(a[k].dtype) for k in a})
        return one

    def averaged(**options):
        def run(one, two):
            model = AveragedModel(one, use_buffers=True, **options)
            model.update_parameters(one)
            model.update_parameters(two)
            return model.module

        return run

    def timm(one, two):  # what timm.utils.ModelEmaV2 and V3 do, in their words for V2
        for x, y in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
            x.copy_(0.999 * x + 0.001 * y)
        return one

    def foreach(one, two):  # V3: floats by lerp, the rest copied
        for x, y in zip(one.buffers(), two.buffers(), strict=True):
            x.lerp_(y, 0.001) if x.is_floating_point() else x.copy_(y)
        return one

    ema = get_ema_multi_avg_fn(0.999)
    return [own, averaged(), averaged(multi_avg_fn=ema), timm, foreach]


@pytest.mark.parametrize("recipe", averages())
def test_an_average_of_contexts_on_different_grids_is_refused_aloud(recipe):
    one, two = two_grids()
    with pytest.raises(RuntimeError, match=r"use_buffers=False.*update_stats"):
        recipe(one, two).eval()(torch.randn(4, 3))


@pytest.mark.parametrize("recipe", averages())
def test_an_average_on_one_grid_is_the_mixture(recipe):
    one = QAct(1, momentum=1.0)
    z = torch.randn(400, 1)
    one(z)
    two = copy.deepcopy(one)
    two(torch.cat([z[z < 0].repeat(2), z[z >= 0]])[:400, None].clamp(z.min(), z.max()))
    assert torch.equal(one.context.exponent, two.context.exponent)
    assert torch.equal(one.context.offset, two.context.offset)
    masses = [layer.context.mass.clone() for layer in (one, two)]
    mean = recipe(one, two).eval()
    mean(torch.randn(4, 1))
    low, high = (m.clone() for m in masses)
    between = (mean.context.mass - torch.minimum(low, high) >= -1e-3) & (
        mean.context.mass - torch.maximum(low, high) <= 1e-3
    )
    assert bool(between.all())


def test_states_with_integer_grids_as_they_were_saved_before_load():
    context = Context(2).add(torch.randn(50, 2))
    old = {**context.state_dict()}
    old["exponent"], old["offset"] = old["exponent"].int(), old["offset"].long()
    new = Context(2)
    new.load_state_dict(old)
    assert_same(state(new), state(context))


@pytest.mark.parametrize("top", [16.0, 18.0, 50.0, 1e6])
@pytest.mark.parametrize("n", [200, 5000])
def test_extreme_quantiles_are_the_extreme_values(top, n):
    values = torch.cat([torch.randn(n, 1), torch.tensor([[top], [-2 * top]])])
    context = Context(1).add(values)
    ends = context.quantile(torch.tensor([0.0, 0.5 / (n + 2), 1 - 0.5 / (n + 2), 1.0]))
    torch.testing.assert_close(ends, torch.tensor([[-2 * top, -2 * top, top, top]]))
    ordered = context.quantile(torch.linspace(0, 1, 999))[0]
    assert (ordered.diff() >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_values_count_in_full_wherever_they_stand(dtype):
    """Ties in any unit, in one batch or in two of which the second makes bins wider."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(12):
        unit = 10 ** (60 * torch.rand((), generator=draw, dtype=torch.float64) - 30)
        x = torch.randn(400, 1, generator=draw).round() + 0.37
        far = x.clone()
        far[0] = 3 + 60 * float(torch.rand((), generator=draw))
        x, far = (unit * x).to(dtype), (unit * far).to(dtype)
        for parts in ((x,), (x, far), (far, x)):
            context, z = Context(1, dtype=dtype), torch.cat(parts)
            for part in parts:
                context.add(part)
            exact = (z[None] <= z[:, None]).double().mean(1)
            torch.testing.assert_close(context.cdf(z).double(), exact, rtol=0, atol=5e-3)


def filled(bins: int = 64) -> Context:
    return Context(3, bins).add(torch.randn(200, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_state_that_is_assigned_is_widened(dtype):
    state = {
        k: v.to(dtype) if v.is_floating_point() else v for k, v in filled().state_dict().items()
    }
    copied, assigned = Context(3, 64), Context(3, 64)
    copied.load_state_dict(state)
    assigned.load_state_dict(state, assign=True)
    z = torch.randn(50, 3)
    assert all(getattr(assigned, name).dtype == torch.float32 for name in TENSORS[:-1])
    assert torch.equal(assigned.rank(z), copied.rank(z))
    assert assigned.single
    assert assigned.add(z).count[0] == copied.add(z).count[0]


def test_batches_that_are_assigned_stay_whole():
    state = filled().state_dict()
    state["batches"] = state["batches"].float()
    context = Context(3, 64)
    context.load_state_dict(state, assign=True)
    assert context.batches.dtype == torch.int64
    assert context.single


def test_shapes_without_numbers_load_and_answer_nothing():
    state = {name: tensor.to("meta") for name, tensor in filled().state_dict().items()}
    blank = Context(3, 64, device="meta")
    blank.load_state_dict(state, assign=True)
    with pytest.raises(RuntimeError, match="Cannot copy out of meta tensor"):
        Context(3, 64).load_state_dict(state)
    with pytest.raises(RuntimeError, match="has shape"):
        Context(2, 64).load_state_dict(state, assign=True)
    z = torch.randn(5, 3)
    for question in (
        lambda: blank.rank(z),
        lambda: blank.cdf(z),
        lambda: blank.density(z),
        lambda: blank.quantile(0.5),
        lambda: blank.add(z),
        lambda: blank.merge(filled()),
        lambda: filled().merge(blank),
        lambda: blank.is_empty,
    ):
        with pytest.raises(RuntimeError, match=r"meta device.*assign=True"):
            question()
    whole = filled()
    blank.load_state_dict(whole.state_dict(), assign=True)
    assert torch.equal(blank.rank(z), whole.rank(z))


def test_another_number_of_bins_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"\(3, 64\), not \(3, 32\).*bins=64"):
        Context(3, 32).load_state_dict(filled().state_dict())
