"""Values, minima, limits and identities of each formula; torch as the oracle where it has one."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

import qact
from qact.activations import (
    batch,
    expanded,
    gated,
    mixed,
    parametric,
    piecewise,
    polynomial,
    rational,
    rectified,
    smooth,
    sparse,
)

X = torch.linspace(-8, 8, 1601, dtype=torch.float64)


def at(name: str, x: float, **options: float) -> float:
    module = qact.activation(name, **options).double()
    return module(torch.tensor([x], dtype=torch.float64)).item()


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "x", "want"),
    [
        ("gelu", 1, 0.8413447),
        ("gelu", -1, -0.1586553),
        ("golu", 0, 0.0),
        ("golu", 1, 0.6922006),
        ("golu", -1, -0.0659880),
        ("mish", 0, 0.0),
        ("mish", 1, 0.8650984),
        ("mish", -1, -0.3034015),
        ("silu", 1, 0.7310586),
        ("swish", 1, 0.7310586),
        ("swish", -1, -0.2689414),
        ("aptx", 1, 0.8807971),
        ("crrelu", 1, 1.0060653),
        ("crrelu", -1, -0.0060653),
        ("xatlu", 1, 0.75),
        ("apa", 1, 0.7310586),
        ("selu", 1, 1.0507010),
    ],
)
def test_values(name, x, want):
    assert at(name, float(x)) == pytest.approx(want, abs=5e-8)


@pytest.mark.parametrize(
    ("name", "place", "least"),
    [
        ("gelu", -0.7517915, -0.1699712),
        ("golu", -0.5671433, -0.0972601),
        ("mish", -1.1924312, -0.3088434),
        ("swish", -1.2784645, -0.2784645),
        ("silu", -1.2784645, -0.2784645),
        ("aptx", -0.6392323, -0.1392323),
    ],
)
def test_minima(name, place, least):
    found = minimize_scalar(lambda x: at(name, x), bounds=(-3, 0), options={"xatol": 1e-9})
    assert found.fun == pytest.approx(least, abs=5e-8)
    assert found.x == pytest.approx(place, abs=2e-6)


def slope(name: str, x: torch.Tensor, **options: float) -> torch.Tensor:
    x = x.clone().requires_grad_()
    qact.activation(name, **options).double()(x).sum().backward()
    return x.grad


def test_slopes():
    assert slope("golu", f64(0.0)).item() == pytest.approx(1 / math.e)
    steep = slope("gelu", X).abs()
    assert steep.max().item() == pytest.approx(1.1289041, abs=1e-5)
    assert abs(X[steep.argmax()].item()) == pytest.approx(math.sqrt(2), abs=0.01)
    for scale, temperature, offset in ((2.0, 2.0, 1.0), (1.58, 3.0, 0.71)):
        found = slope("tempered_sigmoid", X, scale=scale, temperature=temperature, offset=offset)
        assert found.max().item() == pytest.approx(scale * temperature / 4)
    beta, s = 1.7, torch.sigmoid(1.7 * X)
    torch.testing.assert_close(slope("swish", X, beta=beta), beta * X * s + s * (1 - beta * X * s))


def test_golu_does_not_overflow():
    got = smooth.golu(torch.tensor([-100.0, -1e4, 1e4]))
    assert got.tolist() == [0.0, 0.0, 1e4]


def test_aptx_is_a_family():
    torch.testing.assert_close(smooth.aptx(X, 1, 0.5, 0.5), F.silu(X), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(smooth.aptx(X), X * torch.sigmoid(2 * X))


def test_tempered_sigmoid_is_tanh_and_bounded():
    torch.testing.assert_close(smooth.tempered_sigmoid(X), torch.tanh(X), rtol=0, atol=1e-12)
    far = smooth.tempered_sigmoid(f64(-1e4, 1e4), 1.58, 3.0, 0.71)
    torch.testing.assert_close(far, f64(-0.71, 0.87))


def test_swish_goes_from_linear_to_relu():
    torch.testing.assert_close(parametric.swish(X, f64(0.0)), X / 2)
    torch.testing.assert_close(parametric.swish(X, f64(1e6)), X.relu(), atol=1e-6, rtol=0)
    torch.testing.assert_close(parametric.swish(X, f64(1.0)), F.silu(X))


def test_crrelu():
    torch.testing.assert_close(rectified.crrelu(X, f64(0.0)), X.relu())
    correction = rectified.crrelu(X, f64(0.3)) - X.relu()
    torch.testing.assert_close(correction, -correction.flip(0), atol=1e-14, rtol=0)
    assert correction[0].abs() < 1e-12


def test_helu_is_relu_forwards_and_tilted_backwards():
    alpha = 0.3
    x = f64(-2 * alpha, -alpha / 2, 0.0, 1.0).requires_grad_()
    y = rectified.helu(x, alpha)
    assert torch.equal(y, x.relu())
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0]
    plain, twin = (X.clone().requires_grad_() for _ in range(2))
    rectified.helu(plain, 0.0).sum().backward()
    twin.relu().sum().backward()
    assert torch.equal(plain.grad, twin.grad)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_sparse_functions_zero_the_stated_share(tau):
    z = torch.special.ndtri((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)
    share = 0.5 * math.erfc(-tau / math.sqrt(2))
    for function, want in (
        (rectified.clipped_shifted_relu, share),
        (rectified.clipped_soft_threshold, 2 * share - 1),
    ):
        y = function(z, tau, 1.5)
        assert (y == 0).double().mean().item() == pytest.approx(want, abs=1e-5)
        assert y.abs().max() == 1.5


def test_gates():
    x = torch.randn(3, 8, 5, dtype=torch.float64)
    a, b = x.chunk(2, 1)
    torch.testing.assert_close(gated.gated(x, "sigmoid"), F.glu(x, 1))
    torch.testing.assert_close(gated.gated(x, "relu"), a * b.relu())
    torch.testing.assert_close(gated.gated(x, "gelu"), a * F.gelu(b))
    torch.testing.assert_close(gated.gated(x, "silu"), a * F.silu(b))
    torch.testing.assert_close(gated.gated(x, "linear"), a * b)
    torch.testing.assert_close(gated.drelu(x), a.relu() * b.relu())
    for dim in (0, 2, -1):
        y = torch.randn(4, 6, 8, dtype=torch.float64, requires_grad=True)
        torch.testing.assert_close(gated.gated(y, "sigmoid", dim), F.glu(y, dim))


def test_a_gate_wide_open_is_linear():
    x = torch.randn(2, 6)
    x[:, 3:] = 100.0
    torch.testing.assert_close(gated.gated(x, "sigmoid"), x[:, :3])


def test_simple_gate_is_homogeneous_of_degree_two():
    x = torch.randn(3, 8, dtype=torch.float64)
    torch.testing.assert_close(gated.gated(3 * x, "linear"), 9 * gated.gated(x, "linear"))


def test_drelu_is_three_quarters_zero_at_a_symmetric_start():
    y = gated.drelu(torch.randn(2000, 64))
    assert (y == 0).float().mean().item() == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("width", [3, 5])
def test_odd_channels_are_refused(width):
    for call in (gated.gated, gated.drelu, gated.maxout):
        with pytest.raises(ValueError, match=rf"{width} channels at dim 1 \(shape \(2, {width}\)"):
            call(torch.zeros(2, width))


def test_maxout():
    x = torch.randn(50, dtype=torch.float64)
    torch.testing.assert_close(gated.maxout(torch.stack([x, 0 * x], 1))[:, 0], x.relu())
    torch.testing.assert_close(gated.maxout(torch.stack([x, -x], 1))[:, 0], x.abs())
    pair = torch.tensor([[1.0, 2.0]], requires_grad=True)
    gated.maxout(pair).sum().backward()
    assert pair.grad.tolist() == [[0.0, 1.0]]
    one, two = torch.randn(2, 20, 6, dtype=torch.float64)
    middle = gated.maxout((one + two) / 2, 3)
    assert (middle <= (gated.maxout(one, 3) + gated.maxout(two, 3)) / 2 + 1e-12).all()


def test_expanded_gates():
    torch.testing.assert_close(expanded.expanded_gate(X, f64(0.0), "normal"), F.gelu(X))
    torch.testing.assert_close(expanded.expanded_gate(X, f64(0.0), "sigmoid"), F.silu(X))
    atlu = X * (torch.atan(X) + math.pi / 2) / math.pi
    torch.testing.assert_close(expanded.expanded_gate(X, f64(0.0)), atlu)
    assert at("xatlu", 1.0, alpha=0.25) == pytest.approx(0.875)
    for gate in ("arctan", "normal", "sigmoid"):
        y = expanded.expanded_gate(f64(-1e6, 1e6), f64(0.25), gate) / f64(-1e6, 1e6)
        torch.testing.assert_close(y, f64(-0.25, 1.25), atol=1e-6, rtol=0)


def test_the_second_derivative_of_atlu():
    x = X.clone().requires_grad_()
    atlu = x * (torch.atan(x) / math.pi + 0.5)
    (first,) = torch.autograd.grad(atlu.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 2 / (math.pi * (1 + X**2) ** 2))
    torch.testing.assert_close(slope("xatlu", X), first.detach())


def test_apa_and_aglu_are_a_family():
    for kappa in (0.5, 1.0, 2.0):
        got = parametric.apa(X, f64(kappa), f64(1.0))
        torch.testing.assert_close(got, torch.sigmoid(kappa * X))
        torch.testing.assert_close(parametric.aglu(X, f64(kappa), f64(1.0)), X * got)
    gumbel = parametric.apa(f64(1.0), f64(1.0), f64(1e-4)).item()
    assert gumbel == pytest.approx(0.6922006, abs=1e-4)
    small = parametric.aglu(X, f64(1.0), f64(1e-12))
    torch.testing.assert_close(small, smooth.golu(X), atol=3e-4, rtol=0)
    direct = (0.3 * torch.exp(-0.7 * X) + 1) ** (-1 / 0.3)
    torch.testing.assert_close(parametric.apa(X, f64(0.7), f64(0.3)), direct)


def test_pau():
    a, b = f64(0, 1, 0), f64(0, 0, 0)
    torch.testing.assert_close(rational.pau(X, a, b), X)
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)
    start = qact.activation("pau").double()(x)
    assert (start - F.leaky_relu(x)).abs().max() < 0.034
    wild = rational.pau(X, torch.randn(6, dtype=torch.float64), torch.randn(4, dtype=torch.float64))
    assert torch.isfinite(wild).all()
    a, b = torch.randn(6, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    top = sum(a[j] * X**j for j in range(6))
    below = 1 + sum(b[k - 1] * X**k for k in range(1, 5)).abs()
    torch.testing.assert_close(rational.pau(X, a, b), top / below)
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        rational.pau(X, torch.zeros(2, 2), b)


def test_polynomials():
    torch.testing.assert_close(polynomial.polyrelu(X, f64(0, 1, 0, 0)), X.relu())
    torch.testing.assert_close(polynomial.polyrelu(X, f64(0, 0, 1, 0)), X.relu().square())
    x, a = torch.randn(3, 8, 5, dtype=torch.float64), f64(0.1, 0.5, -0.3, 0.2)
    want = a[0] + sum(a[i] * x**i * (x ** (2 * i)).mean(1, True).rsqrt() for i in (1, 2, 3))
    torch.testing.assert_close(polynomial.polynorm(x, a), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(polynomial.polynorm(1000 * x, a), polynomial.polynorm(x, a))


def test_tmaf():
    knots = f64(0.0)
    torch.testing.assert_close(piecewise.diagonal_tmaf(X, f64(0, 1), knots), X.relu())
    torch.testing.assert_close(piecewise.diagonal_tmaf(X, f64(0.2, 1), knots), F.leaky_relu(X, 0.2))
    torch.testing.assert_close(piecewise.diagonal_tmaf(X, f64(1, 1), knots), X)
    levels, knots = f64(0.1, 0.2, 0.3, 0.4).requires_grad_(), f64(-1, 0, 1)
    piecewise.diagonal_tmaf(X, levels, knots).sum().backward()
    place = torch.bucketize(X, knots, right=True)
    want = torch.stack([X[place == j].sum() for j in range(4)])
    torch.testing.assert_close(levels.grad, want)
    with pytest.raises(ValueError, match="3 knots make 4 intervals, got 3"):
        piecewise.diagonal_tmaf(X, f64(1, 2, 3), knots)
    with pytest.raises(ValueError, match="must rise"):
        qact.activation("tmaf", knots=(1.0, 0.0))


def test_dice():
    x = f64(-1.0, 1.0)[:, None]
    got = batch.dice(x, f64(0.25), f64(0.0), f64(1.0), eps=0.0)[:, 0]
    torch.testing.assert_close(got, f64(-0.4517061, 0.7982939), atol=5e-8, rtol=0)
    layer = qact.activation("dice", 1, alpha=0.25, eps=0.0).double()
    torch.testing.assert_close(layer(x)[:, 0], got)
    x = torch.randn(64, 5, 4)
    torch.testing.assert_close(qact.activation("dice", 5, alpha=1.0)(x), x)
    mean = x.mean((0, 2))
    middle = batch.dice(mean[None], torch.full((5,), 0.3), mean, torch.ones(5))
    torch.testing.assert_close(middle[0], 0.65 * mean)


def test_dice_follows_the_batches():
    layer, x = qact.activation("dice", 3, momentum=1.0), 3 + 2 * torch.randn(500, 3)
    trained = layer(x)
    torch.testing.assert_close(layer.eval()(x), trained)


def test_topk():
    x = torch.randn(7, 20, 3)
    for k in (1, 5, 19):
        y = sparse.topk(x, k)
        assert ((y != 0).sum(1) <= k).all()
        kept = y != 0
        assert (y[kept] == x[kept]).all()
    torch.testing.assert_close(sparse.topk(x, 20), x.relu())
    torch.testing.assert_close(sparse.topk(x, 1.0), x.relu())
    tied = sparse.topk(torch.ones(2, 6), 3)
    assert (tied.sum(1) == 3).all()
    for bad in (0, 21, 1.5):
        with pytest.raises(ValueError, match=f"k={bad}"):
            sparse.topk(x, bad)


def test_hard_ash_keeps_the_stated_share():
    x = 5 + 3 * torch.randn(4, 100_000, dtype=torch.float64)
    z = 1.2815516  # the quantile that one in ten exceeds
    y = sparse.hard_ash(x, alpha=1e9, z_k=z)
    mean, std = x.mean(1, True), x.std(1, correction=0, keepdim=True)
    assert torch.equal(y != 0, x > mean + z * std)
    assert (y != 0).double().mean().item() == pytest.approx(0.1, abs=0.003)
    again = sparse.hard_ash(0.5 * x + 1, alpha=1e9, z_k=z)
    assert torch.equal(again != 0, y != 0)


def test_ash_written_out():
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    mean, std = x.mean((1, 2), True), x.std((1, 2), correction=0, keepdim=True)
    gate = 3.0 * (x - mean - 0.4 * std)
    torch.testing.assert_close(sparse.ash(x, z_k=0.4), x * torch.sigmoid(gate))
    hard = x.clamp(0, 2) * ((gate + 3).clamp(0, 6) / 6)
    torch.testing.assert_close(sparse.hard_ash(x, z_k=0.4), hard)


def test_smartmixed_chooses_and_freezes():
    torch.manual_seed(0)
    layer = qact.activation("smartmixed", 12).double()
    with torch.no_grad():
        layer.logits.normal_()
    choice = mixed.choose(layer.logits)
    assert torch.equal(choice.sum(1), torch.ones(12, dtype=torch.float64))
    assert set(choice.detach().round().flatten().tolist()) == {0.0, 1.0}
    x = torch.randn(5, 12, 3, dtype=torch.float64)
    layer(x).square().sum().backward()
    assert (layer.logits.grad != 0).any()
    soft = layer.eval()(x)
    by_hand = torch.stack([mixed.POOL[n](x[:, c]) for c, n in enumerate(layer.choice)], 1)
    torch.testing.assert_close(soft, by_hand)
    torch.testing.assert_close(layer.freeze()(x), by_hand)
    torch.testing.assert_close(layer.train()(x), by_hand)
    assert not layer.logits.requires_grad


def test_smartmixed_samples_in_training_alone():
    layer, x = qact.activation("smartmixed", 50), torch.randn(2, 50)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


@pytest.mark.parametrize("name", ["swish", "golu", "aglu", "xatlu", "tmaf", "polynorm", "geglu"])
def test_integers_are_refused_and_not_cut(name):
    """What lies between 0 and 1 was 0 in the dtype of the input, and True of booleans."""
    layer = qact.activations.create(name)
    for dtype in (torch.int64, torch.bool):
        with pytest.raises(
            (TypeError, NotImplementedError), match=r"floating, got|not implemented"
        ):
            layer(torch.ones(3, 4).to(dtype))


def test_the_tails_of_xatlu_keep_their_digits():
    """``x (arctan x + pi/2)/pi`` tends to -1/pi: ``arctan(1/-x)``, whose sum would cancel."""
    x = -torch.logspace(0, 15, 16)
    want = torch.tensor([-v * math.atan(1 / v) / math.pi for v in (-x).tolist()])
    torch.testing.assert_close(
        qact.activations.create("xatlu")(x).detach(), want, rtol=1e-6, atol=0
    )


def test_tempered_sigmoid_is_tanh_of_small_numbers():
    x = torch.logspace(-30, 1, 32)
    torch.testing.assert_close(
        qact.activations.create("tempered_sigmoid")(x), x.tanh(), rtol=1e-6, atol=0
    )
