"""Every precision, memory layout and extreme: right, or refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from qact import QAct
from qact.functional import quantile_activation

ENGINES = ["eager", "cpu", "reference"]
EPSILON = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 2.5e-3}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("level", ["uniform", "gelu", "steps"])
@pytest.mark.parametrize("smooth", [True, False])
def test_precisions(engine, dtype, level, smooth):
    z = (torch.randn(300, 3) * 2 + 1).to(dtype)
    mine = z.clone().requires_grad_()
    options = {"levels": level, "smooth": smooth}
    got = quantile_activation(mine, engine=engine, **options)
    want = quantile_activation(z.double(), engine="reference", **options)
    assert got.dtype == dtype
    scale = float(want.abs().max().clamp_min(1))
    step = 1 / 101 if level == "steps" and smooth else 0
    assert (got.double() - want).abs().max().item() <= 2 * EPSILON[dtype] * scale + step
    got.sum().backward()
    assert mine.grad.dtype == dtype
    assert bool(torch.isfinite(mine.grad).all())


@pytest.mark.parametrize("engine", ENGINES)
def test_double_precision_stays(engine):
    z = torch.randn(300, 3, dtype=torch.float64, requires_grad=True)
    output = quantile_activation(z, engine=engine)
    assert output.dtype == torch.float64
    output.sum().backward()
    assert z.grad.dtype == torch.float64
    want = quantile_activation(z.detach(), engine="reference")
    assert (output - want).abs().max().item() <= (1e-12 if engine == "reference" else 1 / 400)


@pytest.mark.parametrize("engine", ENGINES)
def test_half_precision_gradients(engine):
    z = torch.randn(400, 2)
    grad = torch.randn(400, 2)
    for dtype, bound in ((torch.float16, 0.02), (torch.bfloat16, 0.05)):
        mine = z.to(dtype).requires_grad_()
        (got,) = torch.autograd.grad(quantile_activation(mine, engine=engine), mine, grad.to(dtype))
        exact = z.to(dtype).double().requires_grad_()
        want = quantile_activation(exact, engine="reference")
        (want,) = torch.autograd.grad(want, exact, grad.to(dtype).double())
        assert (got.double() - want).norm().item() <= bound * float(want.norm())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_computes_in_single_precision(dtype):
    layer, linear = QAct(4), torch.nn.Linear(6, 4)
    twin = QAct(4)
    x = torch.randn(64, 6)
    with torch.autocast("cpu", dtype=dtype):
        hidden = linear(x)
        output = layer(hidden)
    assert hidden.dtype == dtype
    assert output.dtype == dtype
    assert torch.equal(output, twin(hidden))
    for one, other in zip(layer.context.buffers(), twin.context.buffers(), strict=True):
        assert torch.equal(one, other)
    output.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert bool(torch.isfinite(linear.weight.grad).all())
    # Single-precision input stays so: no matrix product happens here.
    with torch.autocast("cpu", dtype=dtype):
        assert layer(torch.randn(8, 4)).dtype == torch.float32
        layer.eval()
        assert layer(torch.randn(8, 4)).dtype == torch.float32


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The same numbers (N, C, H, W) in other memory."""
    roomy = torch.zeros(*[2 * s for s in x.shape])
    strided = roomy[::2, ::2, ::2, ::2]
    strided.copy_(x)
    return {
        "channels_last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "batch_last": x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        "strided": strided,
        "flipped": x.flip(0).flip(0),
        "offset": torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    }


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("smooth", [True, False])
def test_memory_layouts(engine, smooth):
    x, grad = torch.randn(4, 3, 6, 5), torch.randn(4, 3, 6, 5)
    plain = x.clone().requires_grad_()
    options = {"engine": engine, "smooth": smooth, "levels": "gelu", "grounded": True}
    want = quantile_activation(plain, **options)
    (want_grad,) = torch.autograd.grad(want, plain, grad)
    for name, other in layouts(x).items():
        before = other.clone()
        mine = other.detach().requires_grad_()
        got = quantile_activation(mine, **options)
        (got_grad,) = torch.autograd.grad(got, mine, grad)
        torch.testing.assert_close(got, want, atol=1e-4, rtol=0, msg=name)
        torch.testing.assert_close(got_grad, want_grad, atol=1e-3, rtol=1e-3, msg=name)
        assert torch.equal(other, before), name
        assert got.shape == x.shape


@pytest.mark.parametrize("engine", ENGINES)
def test_the_memory_format_is_kept(engine):
    layer = QAct(3, engine=engine)
    for training in (True, False):
        layer.train(training)
        for rank, form in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            x = torch.randn(2, 3, *[4] * (rank - 2))
            last = x.to(memory_format=form).requires_grad_()
            output = layer(last)
            assert output.is_contiguous(memory_format=form)
            (grad,) = torch.autograd.grad(output.sum(), last)
            assert engine == "reference" or grad.is_contiguous(memory_format=form)
            assert layer(x).is_contiguous()


@pytest.mark.parametrize("engine", ENGINES)
def test_expanded_inputs(engine):
    row = torch.randn(5, 1, 7)
    x = row.expand(5, 3, 7)
    got = quantile_activation(x, engine=engine)
    want = quantile_activation(x.contiguous(), engine=engine)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)
    tall = torch.randn(1, 3).expand(10, 3)  # every channel is constant
    ranks = quantile_activation(tall, grounded=False, engine=engine)
    torch.testing.assert_close(ranks, torch.full((10, 3), 0.5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("shape", "dim"), [((1, 3), 1), ((3,), 0), ((1, 3, 1, 1), 1), ((1, 1, 3), -1)]
)
def test_one_value_a_channel(engine, shape, dim):
    z = torch.tensor([-2.0, 0.0, 5.0]).reshape(shape).requires_grad_()
    got = quantile_activation(z, dim=dim, engine=engine)
    torch.testing.assert_close(got.flatten(), torch.tensor([0.25, 0.75, 0.75]), atol=1e-5, rtol=0)
    (grad,) = torch.autograd.grad(got.sum(), z)
    assert torch.equal(grad, torch.zeros_like(z))
    layer = QAct(3, dim=dim, engine=engine)
    for _ in range(3):
        assert bool(torch.isfinite(layer(z)).all())
    assert bool(torch.isfinite(layer.eval()(z)).all())


MIXTURES = {
    "huge": lambda g: g * 1e30,
    "tiny": lambda g: g * 1e-30,
    "one_huge": lambda g: torch.cat([g[1:], torch.full((1, 1), 1e30)]),
    "one_huge_negative": lambda g: torch.cat([g[1:], torch.full((1, 1), -1e30)]),
    "half_huge": lambda g: torch.cat([g[::2], g[1::2] * 1e30]),
    "huge_and_one": lambda g: torch.where(g > 0, 1e30, 1.0) * torch.ones_like(g),
    "half_tiny": lambda g: torch.cat([g[::2], g[1::2] * 1e-30]),
    "far_away": lambda g: g + 1e30,
    "beside_a_million": lambda g: g + 1e6,
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("grounded", [True, False])
def test_extremes_have_the_right_ranks(engine, name, grounded):
    z = MIXTURES[name](torch.randn(300, 1)).requires_grad_()
    for smooth in (True, False):
        options = {"grounded": grounded, "smooth": smooth}
        got = quantile_activation(z, engine=engine, **options)
        want = quantile_activation(z.detach().double(), engine="reference", **options)
        bound = 1 / 400 + (0 if smooth else 1 / 300)
        assert (got - want).abs().max().item() <= bound, smooth
        (grad,) = torch.autograd.grad(got, z, torch.randn(300, 1))
        assert bool(torch.isfinite(grad).all())


@pytest.mark.parametrize("name", MIXTURES)
def test_extremes_do_not_harm_a_running_context(name):
    layer = QAct(1)
    for _ in range(3):
        layer(MIXTURES[name](torch.randn(300, 1)))
    for buffer in layer.context.buffers():
        assert bool(torch.isfinite(buffer).all())
    ordered = MIXTURES[name](torch.randn(300, 1)).sort(0).values
    output = layer.eval()(ordered)
    assert bool(torch.isfinite(output).all())
    assert output.diff(dim=0).min().item() >= -1e-5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("level", ["uniform", "steps", "gelu", "normal"])
@pytest.mark.parametrize("smooth", [True, False])
def test_what_is_not_finite_spoils_its_channel_alone(engine, bad, level, smooth):
    z = torch.randn(20, 4, 3)
    spoilt = z.clone()
    spoilt[7, 1, 2] = bad
    others = [0, 2, 3]
    options = {"engine": engine, "levels": level, "smooth": smooth}
    results = []
    for x in (z, spoilt):
        mine = x.clone().requires_grad_()
        output = quantile_activation(mine, **options)
        (grad,) = torch.autograd.grad(output, mine, torch.ones_like(output))
        results.append((output, grad))
    (output, grad), (got, got_grad) = results
    assert bool(got[:, 1].isnan().all())
    assert torch.equal(got[:, others], output[:, others])
    assert torch.equal(got_grad[:, others], grad[:, others])


@pytest.mark.parametrize("level", ["uniform", "relu", "table", "steps"])
@pytest.mark.parametrize("smooth", [True, False])
def test_in_running_eval_a_nan_spoils_itself_alone(level, smooth):
    layer = QAct(3, levels=level, smooth=smooth)
    layer(torch.randn(64, 3))
    layer.eval()
    z = torch.randn(8, 3)
    want = layer(z)
    spoilt = z.clone()
    spoilt[2, 1] = math.nan
    got = layer(spoilt)
    assert bool(got[2, 1].isnan())
    clean = ~spoilt.isnan()
    assert torch.equal(got[clean], want[clean])
    # Infinity has a place: above, or below, everything.
    spoilt[2, 1] = math.inf
    assert layer(spoilt)[2, 1].item() == pytest.approx(
        layer(torch.full((1, 3), 1e6))[0, 1].item(), abs=1e-6
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_in_other_precisions(engine):
    z = torch.randn(50, 3)
    weight, bias = torch.tensor([1.0, 0.5, 2.0]), torch.tensor([0.0, 0.5, -1.0])
    want = quantile_activation(z, weight=weight, bias=bias, levels="gelu", engine=engine)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        cast = {"weight": weight.to(dtype), "bias": bias.to(dtype)}
        got = quantile_activation(z, levels="gelu", engine=engine, **cast)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_without_gradients_no_graph_is_kept(engine):
    z = torch.randn(20, 3)
    assert quantile_activation(z, engine=engine).grad_fn is None
    with torch.no_grad():
        assert quantile_activation(z.clone().requires_grad_(), engine=engine).grad_fn is None
    with torch.inference_mode():
        inside = quantile_activation(z, engine=engine)
    assert torch.equal(inside, quantile_activation(z, engine=engine))
