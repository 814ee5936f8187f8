"""What every map must do, whatever its formula: masks, precision, gradients, refusals."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qact import weights
from qact.weights import entry

NAMES = weights.names()
N = 6  # scores of a row
STEPS = {"rank", "context_rank"}  # their gradient is borrowed, and tested by itself
OPTIONS = {"context_rank": {"num_classes": N}, "era": {"entropy": 1.0}}


def made(name: str, dtype: torch.dtype = torch.float32, **options: object) -> weights.Weights:
    torch.manual_seed(1)
    module = weights.create(name, **OPTIONS.get(name, {}), **options).to(dtype)
    if name == "context_rank":
        module(torch.randn(200, N, dtype=dtype) if module.dim in (-1, 1) else None)
        module.eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1
    return module


def call(module: weights.Weights, scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """The weights, drawn alike at every call where they are drawn."""
    torch.manual_seed(7)
    return module(scores, mask)


def data(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_knows_itself(name):
    known = entry(name)
    assert known.paper
    assert known.formula
    assert known.family in ("softmax", "sparse", "rational", "rectified", "ranks")
    assert set(dict(made(name).named_parameters())) == set(known.parameters)
    assert repr(made(name))


@pytest.mark.parametrize("name", NAMES)
def test_what_an_entry_promises(name):
    known, module, z = entry(name), made(name, torch.float64), 3 * data(50, N)
    w = call(module, z)
    assert w.shape == z.shape
    if known.simplex:
        assert w.min() >= 0
        torch.testing.assert_close(w.sum(-1), torch.ones(50, dtype=z.dtype))
    assert bool((w == 0).any()) == known.sparse
    torch.testing.assert_close(call(module, z + 1.7), w) if known.shift else None
    assert known.shift == torch.allclose(call(module, z + 1.7), w)
    assert known.scale == torch.allclose(call(module, 2.3 * z), w)
    if known.ordered and not known.random:
        order = z.argsort(-1)
        assert (w.gather(-1, order).diff(dim=-1) >= -1e-12).all()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("context_rank", "gumbel")])
def test_permutation_equivariance(name):
    module, z = made(name, torch.float64), data(20, N)
    order = torch.randperm(N)
    torch.testing.assert_close(call(module, z[:, order]), call(module, z)[:, order])


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("context_rank", "gumbel")])
def test_any_dim(name):
    z = data(2, N, 3)
    want = call(made(name, torch.float64), z.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(call(made(name, torch.float64, dim=1), z), want)


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_takes_scores_out(name):
    """Weight and gradient are exactly 0, and the others are as if the row were shorter."""
    module = made(name, torch.float64)
    z = data(4, N).requires_grad_()
    keep = torch.ones(4, N, dtype=torch.bool)
    keep[0, 2], keep[1, 3:], keep[2] = False, False, False
    additive = torch.where(keep, 0.0, -torch.inf).double()
    results = []
    for scores, mask in ((z, keep), (z, additive), (z.masked_fill(~keep, -torch.inf), None)):
        w = call(module, scores, mask)
        assert (w[~keep] == 0).all()
        (g,) = torch.autograd.grad((w * data(4, N) ** 2).sum(), z)
        assert (g[~keep] == 0).all()
        assert torch.isfinite(g).all()
        results.append((w.detach(), g))
    for w, g in results[1:]:
        torch.testing.assert_close(w, results[0][0], rtol=0, atol=1e-15)
        torch.testing.assert_close(g, results[0][1], rtol=0, atol=1e-14)
    if name not in ("context_rank", "gumbel"):  # made for a number of classes; drawn
        short = call(module, z[1, :3])
        torch.testing.assert_close(results[0][0][1, :3], short.detach())


@pytest.mark.parametrize("name", NAMES)
def test_an_additive_mask_is_added(name):
    module, z, bias = made(name, torch.float64), data(4, N), data(1, N)
    torch.testing.assert_close(call(module, z, bias), call(module, z + bias))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_computed_in_float32(name, dtype):
    z = (20 * data(30, N)).to(dtype)
    if name == "context_rank":
        z = z / 20
    got = call(made(name), z)
    assert got.dtype == dtype
    torch.testing.assert_close(got, call(made(name), z.float()).to(dtype))


@pytest.mark.parametrize("name", NAMES)
def test_large_scores_are_finite(name):
    z = torch.tensor([[1e4, -1e4, 9.99e3, 0.0, 1.0, -3.0], [-1e4, -1e4, -9e3, -1e4, -2e4, -1e4]])
    z.requires_grad_()
    w = call(made(name), z)
    w.square().sum().backward()
    assert torch.isfinite(w).all()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in STEPS])
def test_gradcheck(name):
    module, z = made(name, torch.float64), 2 * data(3, N)
    keep = torch.ones(3, N, dtype=torch.bool)
    keep[1, :2], keep[2] = False, False
    parameters = list(module.parameters())
    # A small step is too coarse for the threshold of `entmax_learnt`, which stops at 2e-16.
    # `clipped` and `self_adjust` have kinks: nothing stands on one here.
    frozen = call(module, z) if name == "adaptive_temperature" else None
    if frozen is not None:  # no gradient flows through its temperature, by design
        beta = (frozen[:, 1:] / frozen[:, :1]).log() / (z[:, 1:] - z[:, :1])
        again = torch.softmax(beta[:, :1] * z.requires_grad_(), -1)
        want = torch.autograd.grad(again.square().sum(), z)[0]
        got = torch.autograd.grad(call(module, z).square().sum(), z)[0]
        torch.testing.assert_close(got, want)
        return

    def run(z: Tensor, *_: Tensor) -> Tensor:
        return call(module, z, keep)

    assert torch.autograd.gradcheck(run, (z.requires_grad_(), *parameters))


@pytest.mark.parametrize("name", ["sparsemax", "entmax15", "entmax", "softmax"])
def test_gradients_can_be_differentiated_again(name):
    z = data(3, N).requires_grad_()
    assert torch.autograd.gradgradcheck(made(name, torch.float64), (z,))


@pytest.mark.parametrize("name", sorted(STEPS))
def test_the_gradient_of_a_rank_is_that_of_its_smooth_twin(name):
    z = data(4, N).requires_grad_()
    w = call(made(name, torch.float64), z)
    (g,) = torch.autograd.grad((w * data(4, N).square()).sum(), z)
    assert g.abs().max() > 1e-3
    if name == "rank":  # neither shift nor scale changes anything
        torch.testing.assert_close(g.sum(-1), torch.zeros(4, dtype=z.dtype), rtol=0, atol=1e-12)
        sides = (g * z.detach()).sum(-1)
        torch.testing.assert_close(sides, torch.zeros_like(sides), rtol=0, atol=1e-12)


def test_the_smooth_rank_has_its_own_gradient():
    z = data(3, N).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: weights.rank(z, smooth=True), (z,))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "gumbel"])
def test_vmap_is_the_loop(name):
    module, z = made(name), data(3, 4, N, dtype=torch.float32)
    keep = data(3, 4, N) > -1
    want = torch.stack([module(z[i], keep[i]) for i in range(3)])
    torch.testing.assert_close(torch.vmap(module)(z, keep), want)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_computes_in_float32(name):
    module, z = made(name), data(4, N, dtype=torch.float32)
    want = call(module, z)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(call(module, z), want)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "gumbel"])
def test_compiles_whole(name):
    module, z = made(name), data(4, N, dtype=torch.float32)
    keep = data(4, N) > -1
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
        got, want = compiled(a, keep), module(b, keep)
    torch.testing.assert_close(got, want)
    got.square().sum().backward()
    want.square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n not in ("gumbel", "context_rank", "rank", "entmax_learnt")]
)
@settings(max_examples=12)
@given(
    z=st.lists(st.floats(-50, 50, width=32), min_size=N, max_size=N),
    shift=st.floats(-20, 20, width=32),
)
def test_ties_and_shift(name, z, shift):
    """Equal scores have equal weights; what is invariant to shift is so anywhere."""
    z = torch.tensor([*z[:-1], z[0]], dtype=torch.float64)
    module = made(name, torch.float64)
    w = module(z)
    torch.testing.assert_close(w[0], w[-1])
    assert torch.isfinite(w).all()
    if entry(name).shift and name != "normalised":  # equal up to rounding is not equal to it
        torch.testing.assert_close(module(z + shift), w, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("scores", "mask", "error", "says"),
    [
        (torch.zeros(2, N, dtype=torch.int64), None, TypeError, "scores must be floating"),
        ([[0.0]], None, TypeError, "scores must be a tensor"),
        (torch.zeros(2, 0), None, ValueError, "nothing along dim"),
        (torch.zeros(2, N), torch.ones(3, N, dtype=torch.bool), ValueError, r"mask of shape \(3"),
        (torch.zeros(2, N), torch.ones(1, 2, N) > 0, ValueError, "must broadcast"),
        (torch.zeros(2, N), torch.ones(2, N, dtype=torch.int64), TypeError, "mask must be boolean"),
    ],
)
def test_bad_input_is_one_clear_error(name, scores, mask, error, says):
    with pytest.raises(error, match=says):
        made(name)(scores, mask)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "context_rank"])
def test_a_wrong_dim_is_refused(name):
    with pytest.raises(ValueError, match="dim=2 is no dimension"):
        made(name, dim=2)(torch.zeros(2, N))
    with pytest.raises(TypeError, match="dim='x' must be an integer"):
        weights.create(name, dim="x")


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("entmax", {"alpha": 0.9}, "alpha=0.9 must be a number of at least 1"),
        ("entmax", {"alpha": math.nan}, "alpha=nan must be"),
        ("entmax_learnt", {"alpha": 2.0}, r"alpha=2.0 must lie in \(1, 2\)"),
        ("power", {"r": 3}, "r=3 must be even"),
        ("clipped", {"gamma": 0.1}, "gamma=0.1 at most 0"),
        ("gumbel", {"tau": 0}, "tau=0 must be a positive temperature"),
        ("era", {"entropy": 9.0}, "entropy=9.0 must lie in"),
        ("era", {"tau": 2.0}, "tau=2.0 must be at least e"),
        ("rank", {"power": -1}, "power=-1 must be a positive number"),
        ("sdm", {"q": -1}, "q=-1 must be a number"),
        ("sdm", {"d": 1.5}, "d=1.5 must lie in"),
        ("softpick", {"eps": -1e-3}, "eps=-0.001 must be"),
        ("ssmax", {"heads": 0}, "heads=0 must be at least 1"),
    ],
)
def test_options_are_refused_where_they_are_given(name, options, says):
    with pytest.raises(ValueError, match=says):
        weights.create(name, **options)


def test_a_number_per_head():
    for name in ("ssmax", "entmax_learnt"):
        module = weights.create(name, heads=2)
        with torch.no_grad():
            module.get_parameter(entry(name).parameters[0])[1] += 1
        z = data(3, 2, 4, N, dtype=torch.float32)
        first = module(z)[:, 0]
        assert not torch.allclose(module(z.flip(1)).flip(1)[:, 0], first)
        assert torch.allclose(weights.create(name)(z)[:, 0], first)
        with pytest.raises(ValueError, match="must have 2 heads"):
            module(z[:, :1])


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(ValueError, match="unknown weight map 'sparsmax'; did you mean 'sparsemax'"):
        weights.create("sparsmax")


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_is_seen_in_its_row_and_nowhere_else(name):
    module, z = made(name), data(3, N, dtype=torch.float32)
    spoilt = z.clone()
    spoilt[1, 2] = torch.nan
    w = call(module, spoilt)
    assert w[1].isnan().any()
    torch.testing.assert_close(w[::2], call(module, z)[::2])


@pytest.mark.parametrize("unit", [1e-30, 1e-10, 1e10, 1e30])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("context_rank", "gumbel")])
def test_float32_reaches_as_far_as_its_numbers(name, unit):
    z = unit * data(20, N, dtype=torch.float32)
    wide, narrow = call(made(name, torch.float64), z.double()), call(made(name), z)
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-4, atol=1e-6)
    x = z.requires_grad_()
    call(made(name), x).square().sum().backward()
    assert x.grad.isfinite().all()
