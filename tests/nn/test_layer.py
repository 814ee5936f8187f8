"""`QAct`, `QAct.paper` and `LazyQAct`: modes, state, copies, errors, and the published layer."""

from __future__ import annotations

import copy
import io
import math
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from qact import LazyQAct, NormedQAct, QAct, levels
from qact.context import TENSORS
from qact.functional import quantile_activation
from qact.kernels.pieces import ERROR, LINES
from qact.nn.normed import PaperQAct

ENGINES = ["eager", "cpu", "reference"]
LEVELS = ["uniform", "steps", "normal", "table", *levels.ACTIVATIONS]


def state(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype, key
        assert torch.equal(a[key], b[key]), key


def trained(channels: int = 4, **options) -> QAct:
    layer = QAct(channels, **options)
    shape = [32, 6, 6]
    shape.insert(layer.dim % 4, channels)
    for _ in range(3):
        layer(torch.randn(shape) * 2 + 0.5)
    return layer


# What it computes


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("level", LEVELS)
def test_training_is_the_functional(engine, level):
    options = {"grounded": False, "bandwidth": "0.2std", "engine": engine}
    layer = QAct(3, levels=level, **options)
    z = torch.randn(40, 3)
    if level == "table":
        options["levels"] = levels.table(layer.table)
    else:
        with torch.no_grad():
            layer.weight.uniform_(0.5, 2)
            layer.bias.uniform_(-1, 1)
        options.update(levels=level, weight=layer.weight, bias=layer.bias)
    assert torch.equal(layer(z), quantile_activation(z, **options))


@pytest.mark.parametrize("mode", ["running", "batch", "mixed"])
def test_each_mode_of_eval_is_the_functional(mode):
    rank = {"levels": "gelu", "grounded": False, "bandwidth": "0.2std"}
    layer = trained(context=mode, prior=7.0, **rank).eval()
    z = torch.randn(9, 4, 5, 5)
    options = {
        **rank,
        "weight": layer.weight,
        "bias": layer.bias,
        "context": None if mode == "batch" else layer.context,
        "prior": 7.0 if mode == "mixed" else None,
    }
    want = quantile_activation(z, **options)
    if mode == "running":  # a map that is kept is near the one that is made for a call
        near = 1e-6 + ERROR * float(layer.stored().range.max())
        torch.testing.assert_close(layer(z), want, rtol=0, atol=near)
    else:
        assert torch.equal(layer(z), want)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("smooth", [True, False])
@settings(max_examples=6)
@given(data=st.data())
def test_running_eval_sees_no_neighbours(data, level, smooth):
    dim = data.draw(st.sampled_from([1, -1, 2]))
    layer = trained(4, levels=level, smooth=smooth, dim=dim).eval()
    shape = [data.draw(st.integers(1, 19)), 3, 5]
    shape.insert(dim % 4, 4)
    z = torch.randn(shape) * data.draw(st.sampled_from([0.1, 1.0, 30.0]))
    together = layer(z)
    alone = torch.cat([layer(row[None]) for row in z])
    assert torch.equal(together, alone)
    order = torch.randperm(len(z))
    assert torch.equal(layer(z[order]), together[order])
    neighbours = torch.randn_like(z) * 1e6
    assert torch.equal(layer(torch.cat([neighbours, z]))[len(z) :], together)


@pytest.mark.parametrize("engine", ["eager", "cpu"])
def test_running_eval_sees_no_neighbours_in_any_memory_format(engine):
    for level in ("relu", "gelu", "steps"):
        for smooth in (True, False):
            layer = trained(4, levels=level, smooth=smooth, engine=engine).eval()
            z = torch.randn(3, 4, 5, 5)
            want = layer(z)
            assert torch.equal(layer(z.to(memory_format=torch.channels_last)), want)
            assert torch.equal(layer(z.transpose(2, 3)), want.transpose(2, 3))
            assert torch.equal(layer(z[:, :, ::2]), want[:, :, ::2])


def test_eval_answers_about_as_training_did():
    layer = QAct(3, levels="gelu")
    z = torch.randn(512, 3)
    for _ in range(5):
        seen = layer(z)
    assert (layer.eval()(z) - seen).detach().abs().max().item() <= 0.02


def test_eval_writes_nothing_and_no_grad_keeps_no_graph():
    for mode in ("running", "batch", "mixed"):
        layer = trained(context=mode).eval()
        before = state(layer)
        z = torch.randn(8, 4, 3, 3)
        with torch.no_grad():
            assert not layer(z).requires_grad
        with torch.inference_mode():
            layer(z)
        output = layer(z)
        assert output.requires_grad  # weight and bias
        output.sum().backward()
        assert_same(state(layer), before)


def test_no_gradient_leaks_into_the_context():
    layer = QAct(3)
    for _ in range(3):
        z = torch.randn(16, 3, requires_grad=True)
        layer(z).square().sum().backward()
    for name, buffer in layer.named_buffers():
        assert not buffer.requires_grad, name
        assert buffer.grad_fn is None, name


def test_two_training_passes_before_one_backward():
    layer = QAct(3)
    a, b = torch.randn(16, 3, requires_grad=True), torch.randn(16, 3, requires_grad=True)
    (layer(a).sum() + layer(b).square().sum()).backward()
    assert bool(torch.isfinite(a.grad).all())
    assert bool(torch.isfinite(b.grad).all())


def test_training_is_deterministic_to_the_bit():
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        layer = QAct(4, levels="table")
        z = torch.randn(16, 4, 5, 5, requires_grad=True)
        layer(z).square().sum().backward()
        results.append((z.grad, layer.table.grad, *layer.buffers()))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_input_is_not_modified():
    layer = QAct(3)
    z = torch.randn(16, 3)
    before = z.clone()
    layer(z)
    layer.eval()(z)
    assert torch.equal(z, before)


def test_a_learned_table_learns():
    layer = QAct(1, levels="table")
    assert dict(layer.named_parameters()).keys() == {"table"}
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    z = torch.randn(512, 1)
    target = torch.sin(6 * torch.special.ndtr(z))
    losses = []
    for _ in range(200):
        loss = F.mse_loss(layer(z), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]


@pytest.mark.parametrize("level", ["relu", "normal"])
def test_scale_and_shift_learn(level):
    layer = QAct(1, levels=level)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    z = torch.randn(512, 1)
    ranks = QAct(1, levels="normal", affine=False)(z).detach()
    target = 1.7 * ranks + 0.6
    target = target.relu() if level == "relu" else target
    for _ in range(300):
        loss = F.mse_loss(layer(z), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert layer.weight.item() == pytest.approx(1.7, abs=0.05)
    assert layer.bias.item() == pytest.approx(0.6, abs=0.05)


def test_momentum_none_is_the_mean_over_batches():
    batches = [torch.randn(64, 1) + shift for shift in range(4)]
    layer = QAct(1, momentum=None)
    for batch in batches:
        layer(batch)
    q = torch.linspace(-3, 6, 60)[:, None]
    want = torch.stack([(q >= batch.T).float().mean(1) for batch in batches]).mean(0)
    got = layer.context.rank(q, grounded=False, smooth=False)[:, 0]
    assert (got - want).abs().max().item() <= 0.02
    assert float(layer.context.mean) == pytest.approx(float(torch.cat(batches).mean()), abs=1e-4)
    assert float(layer.context.std) == pytest.approx(
        float(torch.cat(batches).std(correction=0)), abs=1e-3
    )


# Parameters, buffers, state


def test_what_is_learned_and_what_is_remembered():
    layer = QAct(5)
    assert {k: tuple(v.shape) for k, v in layer.named_parameters()} == {
        "weight": (5,),
        "bias": (5,),
    }
    assert {k for k, _ in layer.named_buffers()} == {f"context.{name}" for name in TENSORS}
    assert dict(QAct(5, affine=False).named_parameters()) == {}
    paper = dict(QAct.paper(5).named_parameters())
    assert paper.keys() == {f"norm_{s}.{p}" for s in ("in", "out") for p in ("weight", "bias")}


@pytest.mark.parametrize("make", [QAct, QAct.paper])
def test_a_saved_state_is_restored_exactly(make):
    layer, other = make(4), make(4)
    for _ in range(3):
        layer(torch.randn(16, 4) * 3)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    report = other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert report.missing_keys == report.unexpected_keys == []
    assert_same(state(other), state(layer))
    z = torch.randn(9, 4)
    assert torch.equal(other.eval()(z), layer.eval()(z))


def test_a_loaded_context_is_kept_by_eval_and_continued_by_training():
    source = trained(4)
    loaded = QAct(4)
    loaded.load_state_dict(source.state_dict())
    before = state(source)
    loaded.eval()(torch.randn(8, 4, 3, 3) * 50)
    assert_same(state(loaded), before)
    batch = torch.randn(32, 4, 6, 6) + 3
    loaded.train()(batch)
    source(batch)
    assert_same(state(loaded), state(source))
    assert int(loaded.context.batches) == 4
    # Not replaced: a quarter of the mass is the new batch's, the rest is older.
    fresh = QAct(4)
    fresh(batch)
    assert (loaded.context.mean - fresh.context.mean).abs().min().item() > 1.0
    assert (loaded.context.mean - before["context.mean"]).abs().min().item() > 0.2


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("damage", ["shape", "missing"])
def test_a_state_that_does_not_fit_is_named_and_leaves_the_context(name, damage):
    layer = trained(4)
    before = state(layer.context)
    damaged = dict(trained(4).state_dict())
    key = f"context.{name}"
    if damage == "missing":
        del damaged[key]
    else:
        damaged[key] = torch.zeros(2, 2, dtype=damaged[key].dtype)
    with pytest.raises(RuntimeError, match=re.escape(key)):
        layer.load_state_dict(damaged)
    assert_same(state(layer.context), before)


def test_a_state_of_other_channels_is_refused():
    layer = trained(4)
    before = state(layer.context)
    with pytest.raises(RuntimeError, match=re.escape("context.mass")):
        layer.load_state_dict(trained(5).state_dict())
    assert_same(state(layer.context), before)


def test_an_unexpected_key_is_named():
    layer = trained(4)
    with pytest.raises(RuntimeError, match="colour"):
        layer.load_state_dict({**layer.state_dict(), "context.colour": torch.ones(1)})


def through_pickle(module):
    return pickle.loads(pickle.dumps(module))


def through_torch_save(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copier", [copy.deepcopy, through_pickle, through_torch_save])
@pytest.mark.parametrize(
    "make",
    [*[lambda level=level: QAct(4, levels=level) for level in LEVELS], lambda: QAct.paper(4)],
)
def test_copies_are_equal_and_independent(copier, make):
    layer = make()
    z = torch.randn(16, 4)
    layer(z)
    twin = copier(layer)
    before = state(layer)
    assert_same(state(twin), before)
    assert torch.equal(twin.eval()(z), layer.eval()(z))
    twin.train()(z * 3)
    assert_same(state(layer), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("make", [QAct, QAct.paper])
def test_casting_a_trained_model(make, dtype):
    layer = make(4)
    layer(torch.randn(64, 4))
    module = layer if make is QAct else layer.quantile
    before = state(module.context)
    z = torch.randn(16, 4)
    # Casting moves the input and the norms by some roundings, and a value at a threshold of the
    # step rank by a whole level. Both layers increase: what may come lies between two outputs.
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    shift = 2 * eps * (z.abs() + 1)
    with torch.no_grad():
        low, high = layer.eval()(z - shift), layer(z + shift)
    layer.to(dtype)
    after = state(module.context)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for name in ("mass", "moment", "mean", "std", "exponent", "offset"):
        assert after[name].dtype == wide
        assert torch.equal(after[name].float(), before[name])
    with torch.no_grad():
        output = layer(z.to(dtype))
    assert output.dtype == dtype
    # float64 reads lines where the kernels of float32 read cubics.
    lines = LINES * float(high.max() - low.min()) if dtype == torch.float64 else 0
    slack = 2 * eps * torch.maximum(low.abs(), high.abs()).clamp_min(1) + lines
    assert torch.all((output >= low - slack) & (output <= high + slack))
    # Nothing but the numbers is rounded: in float32 the same numbers give the same output.
    with torch.no_grad():
        same = copy.deepcopy(layer).float()(z.to(dtype).float())
        torch.testing.assert_close(layer(z.to(dtype)), same.to(dtype), rtol=0, atol=lines)
    layer.train()(z.to(dtype))
    assert module.context.mass.dtype == wide


def test_options_of_dtype_and_device():
    layer = QAct(3, dtype=torch.float64, device="cpu")
    assert layer.weight.dtype == torch.float64
    assert layer.context.mass.dtype == torch.float64
    half = QAct(3, dtype=torch.bfloat16)
    assert half.weight.dtype == torch.bfloat16
    assert half.context.mass.dtype == torch.float32


# What is refused


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"num_features": 0}, "0"),
        ({"num_features": -1}, "-1"),
        ({"num_features": 2.5}, "2.5"),
        ({"num_features": "3"}, "'3'"),
        ({"num_features": None}, "None"),
        ({"dim": "a"}, "'a'"),
        ({"dim": 1.5}, "1.5"),
        ({"levels": "rellu"}, "'rellu'"),
        ({"levels": 7}, "7"),
        ({"grounded": "no"}, "'no'"),
        ({"smooth": "no"}, "'no'"),
        ({"bandwidth": "wide"}, "'wide'"),
        ({"bandwidth": -0.5}, "-0.5"),
        ({"bandwidth": "-1std"}, "'-1std'"),
        ({"gradient": "exact"}, "'exact'"),
        ({"context": "stored"}, "'stored'"),
        ({"momentum": 0.0}, "0.0"),
        ({"momentum": 1.5}, "1.5"),
        ({"momentum": "slow"}, "'slow'"),
        ({"momentum": math.nan}, "nan"),
        ({"prior": 0.0}, "0.0"),
        ({"prior": -3}, "-3"),
        ({"prior": math.inf}, "inf"),
        ({"prior": "few"}, "'few'"),
        ({"affine": "yes"}, "'yes'"),
        ({"bins": 4}, "4"),
        ({"bins": 20.5}, "20.5"),
        ({"sentinels": -1.0}, "-1.0"),
        ({"sentinels": math.inf}, "inf"),
        ({"sentinels": "one"}, "'one'"),
        ({"engine": "fast"}, "'fast'"),
        ({"dtype": torch.int32}, "int32"),
    ],
)
def test_bad_options_are_repeated(options, value):
    with pytest.raises((ValueError, TypeError), match=re.escape(value)):
        QAct(**{"num_features": 3, **options})
    if "num_features" not in options:
        with pytest.raises((ValueError, TypeError), match=re.escape(value)):
            LazyQAct(**options)


@pytest.mark.parametrize("mode", ["running", "mixed"])
@pytest.mark.parametrize("make", [QAct, QAct.paper])
def test_eval_before_training_is_refused(make, mode):
    layer = make(3, context=mode).eval()
    with pytest.raises(RuntimeError, match="seen no data"):
        layer(torch.randn(4, 3))


@pytest.mark.parametrize("training", [True, False])
def test_bad_inputs_are_described_and_change_nothing(training):
    layer = QAct(3)
    layer(torch.randn(8, 3))
    layer.train(training)
    before = state(layer)
    for shape in ((4, 5), (4, 5, 3)):
        with pytest.raises(ValueError, match=f"5 channels.*{re.escape(str(shape))}.*3"):
            layer(torch.randn(shape))
    if training:
        with pytest.raises(ValueError, match=re.escape("(0, 3)")):
            layer(torch.randn(0, 3))
        with pytest.raises(ValueError, match=re.escape("(2, 3, 0)")):
            layer(torch.randn(2, 3, 0))
    with pytest.raises(TypeError, match=r"torch\.int64"):
        layer(torch.ones(4, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="dim=1"):
        layer(torch.randn(3))
    assert_same(state(layer), before)


def test_print_tells_the_options():
    text = repr(QAct(3, dim=-1, levels="gelu", bandwidth=0.5, context="mixed"))
    for part in ("3,", "dim=-1", "'gelu'", "0.5", "'mixed'"):
        assert part in text


# Lazy


@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"levels": "table"}, {"dim": -1, "bins": 64}]
)
def test_lazy_layers_become_plain_ones(options):
    layer = LazyQAct(**options)
    z = torch.randn(6, 5, 5)
    output = layer(z)
    assert type(layer) is QAct
    assert layer.num_features == 5
    same = QAct(5, **options)
    assert torch.equal(same(z), output)
    assert_same(state(layer), state(same))


def test_an_optimiser_made_before_the_first_batch_learns():
    layer = LazyQAct(levels="gelu")
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.randn(6, 5)).sum().backward()
    before = layer.bias.detach().clone()
    optimiser.step()
    assert not torch.equal(before, layer.bias)


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"levels": "table"}, {"bins": 64}])
def test_a_state_can_be_loaded_into_a_lazy_layer(options):
    source = QAct(5, **options)
    for _ in range(2):
        source(torch.randn(16, 5))
    layer = nn.Sequential(LazyQAct(**options))
    layer.load_state_dict({f"0.{k}": v for k, v in source.state_dict().items()})
    z = torch.randn(4, 5)
    assert torch.equal(layer.eval()(z), source.eval()(z))
    assert type(layer[0]) is QAct
    assert_same(state(layer[0]), state(source))
    batch = torch.randn(16, 5) + 1
    layer.train()(batch)
    source.train()(batch)
    assert_same(state(layer[0]), state(source))


def test_a_loaded_lazy_layer_refuses_other_channels():
    source = QAct(5)
    source(torch.randn(16, 5))
    layer = LazyQAct()
    layer.load_state_dict(source.state_dict())
    with pytest.raises(ValueError, match="4 channels"):
        layer(torch.randn(3, 4))


def test_a_lazy_layer_in_eval_has_seen_nothing():
    layer = LazyQAct().eval()
    with pytest.raises(RuntimeError, match="seen no data"):
        layer(torch.randn(4, 3))
    layer.train()(torch.randn(4, 3))
    assert layer.eval()(torch.randn(2, 3)).shape == (2, 3)


def test_a_lazy_layer_can_be_copied_and_cast_first():
    layer = copy.deepcopy(LazyQAct()).double()
    twin = pickle.loads(pickle.dumps(LazyQAct()))
    z = torch.randn(9, 4, dtype=torch.float64)
    assert layer(z).dtype == torch.float64
    assert layer.weight.dtype == torch.float64
    assert layer.context.mass.dtype == torch.float64
    twin(z)
    assert type(twin) is QAct


@pytest.mark.parametrize("bad", [torch.ones(4, 3, dtype=torch.int64), torch.ones(0, 3)])
def test_a_bad_first_input_does_not_shape_a_lazy_layer(bad):
    layer = LazyQAct()
    with pytest.raises((TypeError, ValueError)):
        layer(bad)
    layer(torch.randn(6, 5))
    assert layer.num_features == 5


# The published layer, by its formulas


def normalised(x: np.ndarray) -> np.ndarray:
    """BatchNorm of (n, C) with its scale at one and its shift at zero."""
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def published_level(z: np.ndarray) -> np.ndarray:
    """Algorithm 1 for one channel: sentinels at +-100, 100 weighted quantiles, k / 101.

    All in whole numbers: twice the rank of a value is a fraction of its side's count.
    """
    joined = np.append(z, [-100.0, 100.0])
    sides = joined >= 0
    below, above = int((~sides).sum()), int(sides.sum())
    reached = []
    for value in z:
        negative = int((joined[~sides] <= value).sum())
        positive = int((joined[sides] <= value).sum())
        # F = negative / (2 below) + positive / (2 above), and k = floor(101 F).
        k = 101 * (negative * above + positive * below) // (2 * below * above)
        reached.append(min(k, 100) / 101)
    return np.array(reached)


def published_density(z: np.ndarray) -> np.ndarray:
    """Algorithm 2 for one channel, without its random sample: a weighted kernel density, h 0.5."""
    joined = np.append(z, [-100.0, 100.0])
    sides = joined >= 0
    weight = np.where(sides, 0.5 / sides.sum(), 0.5 / (~sides).sum())
    gap = (z[:, None] - joined[None]) / 0.5
    return (np.exp(-(gap**2) / 2) / (0.5 * math.sqrt(2 * math.pi))) @ weight


@pytest.mark.parametrize("shape", [(60, 3), (6, 3, 5, 4)])
def test_the_published_layer_by_its_formulas(shape):
    x = torch.randn(shape, dtype=torch.float64) * 2 + 1
    layer = QAct.paper(3).double()
    flat = x.movedim(1, -1).reshape(-1, 3).numpy()
    z = normalised(flat)
    level = np.stack([published_level(z[:, c]) for c in range(3)], 1)
    want = torch.from_numpy(normalised(level))
    mine = x.clone().requires_grad_()
    got = layer(mine)
    torch.testing.assert_close(got.movedim(1, -1).reshape(-1, 3), want, atol=1e-9, rtol=0)

    # The gradient: BatchNorm backward, times the density, times BatchNorm backward.
    slope = torch.from_numpy(np.stack([published_density(z[:, c]) for c in range(3)], 1))
    theirs = torch.from_numpy(flat.copy()).requires_grad_()
    inner = F.batch_norm(theirs, None, None, training=True)
    value = torch.from_numpy(level) + slope * (inner - inner.detach())
    outer = F.batch_norm(value, None, None, training=True)
    g = torch.randn(outer.shape, dtype=torch.float64)
    (expected,) = torch.autograd.grad(outer, theirs, g)
    grad = g.reshape(x.movedim(1, -1).shape).movedim(-1, 1)
    (seen,) = torch.autograd.grad(got, mine, grad)
    seen = seen.movedim(1, -1).reshape(-1, 3)
    assert (seen - expected).norm().item() <= 0.01 * float(expected.norm())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "name", ["all_negative", "all_positive", "one_positive", "three_positive", "both"]
)
def test_the_corners_of_the_published_layer(name, engine):
    g = torch.randn(1000).abs() + 0.01
    z = {
        "all_negative": -g,
        "all_positive": g,
        "one_positive": torch.cat([-g[1:], g[:1]]),
        "three_positive": torch.cat([-g[3:], g[:3]]),
        "both": torch.randn(1000),
    }[name]
    quantile = QAct.paper(1).quantile
    quantile.engine = engine
    got = quantile(z[:, None])[:, 0]
    np.testing.assert_allclose(got.numpy(), published_level(z.double().numpy()), atol=1e-6)
    # Defect 1: the largest negative values got 0.990. Defect 2: outputs jumped.
    assert bool((got[z < 0] <= 0.5).all())
    assert bool((got[z >= 0] >= 50 / 101 - 1e-6).all())
    ordered = got[z.argsort()]
    assert name != "both" or ordered.diff().max().item() <= 1 / 101 + 1e-6


def test_no_level_of_the_published_layer_is_out_by_one():
    # Defect 3: the top bin held double mass and the mean was too high.
    z = torch.cat([torch.rand(5050) + 0.1, -torch.rand(5050) - 0.1])[:, None]
    got = (QAct.paper(1).quantile(z)[:, 0] * 101).round().long()
    counts = torch.bincount(got, minlength=101)
    assert int(counts.max() - counts.min()) <= 3
    assert float(got.double().mean() / 101) == pytest.approx(50 / 101, abs=1e-3)


def test_the_published_layer_in_eval_and_at_other_dims():
    layer = QAct.paper(4, dim=-1)
    assert isinstance(layer, PaperQAct)
    z = torch.randn(8, 6, 4) * 3
    swapped = QAct.paper(4)
    for _ in range(60):
        a = layer(z)
        b = swapped(z.movedim(-1, 1)).movedim(1, -1)
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    layer.eval()
    together = layer(z)
    torch.testing.assert_close(torch.cat([layer(row[None]) for row in z]), together)
    assert (together - a).detach().abs().mean().item() < 0.1


@pytest.mark.parametrize("option", [{"context": "stored"}, {"momentum": 7.0}, {"dim": "x"}])
def test_bad_options_of_the_published_layer(option):
    with pytest.raises((ValueError, TypeError), match=re.escape(repr(*option.values()))):
        QAct.paper(3, **option)


@pytest.mark.parametrize("mode", ["running", "batch", "mixed"])
@pytest.mark.parametrize(
    "make", [QAct, NormedQAct, lambda c: NormedQAct(c, after=True), QAct.paper]
)
@pytest.mark.parametrize("grad", [True, False])
def test_an_empty_batch_passes_in_eval_as_it_does_through_a_batch_norm(make, mode, grad):
    layer = make(3)
    layer(torch.randn(20, 3))
    layer.eval()
    for part in layer.modules():
        if isinstance(part, QAct):
            part.mode = mode
    before = state(layer)
    for shape in ((0, 3), (0, 3, 5), (2, 3, 0)):
        with torch.set_grad_enabled(grad):
            output = layer(torch.randn(shape, requires_grad=grad))
        assert output.shape == shape
        assert output.requires_grad == grad
    assert_same(state(layer), before)


def test_a_double_layer_follows_single_inputs_as_it_follows_double_ones():
    """Fused kernels keep float32: they wrote it into the float64 context of such a layer."""
    z = torch.randn(200, 3)
    for engine in (None, "eager"):
        one, two = (QAct(3, dtype=torch.float64, engine=engine) for _ in range(2))
        one(z)
        two(z.double())
        a, b = one.context, two.context
        torch.testing.assert_close(a.count, torch.full((3,), 200.0).double())
        torch.testing.assert_close(a.mean, b.mean, atol=1e-4, rtol=0)
        torch.testing.assert_close(a.std, b.std, atol=1e-4, rtol=0)


@pytest.mark.parametrize("make", [QAct, NormedQAct, QAct.paper])
@pytest.mark.parametrize("training", [True, False])
def test_the_meta_device_says_shapes_and_leaves_gradients(make, training):
    """As BatchNorm and ReLU do: what a network needs is asked there, before any memory is."""
    layer = make(8, device="meta").train(training)
    z = torch.empty(4, 8, 3, 5, device="meta", dtype=torch.bfloat16, requires_grad=True)
    output = layer(z)
    assert (output.shape, output.dtype, output.is_meta) == (z.shape, z.dtype, True)
    output.sum().backward()
    assert z.grad.shape == z.shape
    assert all(p.grad.shape == p.shape for p in layer.parameters())
    with torch.no_grad():
        assert layer(z).shape == z.shape
    with pytest.raises(ValueError, match="8"):
        layer(z[:, :3])
