"""Saved memory, and that cutting a tensor into pieces changes nothing."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import qact
from qact.activations import recompute

C = 6
COMPOSED = (
    "aglu",
    "apa",
    "aptx",
    "clipped_shifted_relu",
    "clipped_soft_threshold",
    "crrelu",
    "drelu",
    "geglu",
    "golu",
    "hard_ash",
    "helu",
    "pau",
    "polynorm",
    "polyrelu",
    "simple_gate",
    "swiglu",
    "swish",
    "tempered_sigmoid",
    "tmaf",
    "xatlu",
    "xgelu",
    "xsilu",
)


def run(module, x, slope):
    x = x.detach().requires_grad_()
    y = module(x)
    y.backward(slope[:, : y.shape[1]])
    return [y, x.grad, *(p.grad for p in module.parameters() if p.requires_grad)]


@pytest.mark.parametrize("name", COMPOSED)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "transposed"])
def test_pieces_are_the_whole(name, layout, monkeypatch):
    module = qact.activation(name, C).double()
    x, slope = torch.randn(2, 7, C, 4, 6, dtype=torch.float64)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        x = torch.stack([x, x], -1)[..., 0]
    if layout == "transposed":
        x = x.transpose(0, 2).contiguous().transpose(0, 2)
    whole = run(copy.deepcopy(module), x, slope)
    monkeypatch.setattr(recompute, "PIECE", 100)
    for got, want in zip(run(module, x, slope), whole, strict=True):
        torch.testing.assert_close(got, want)


SMOOTH = ("aglu", "aptx", "crrelu", "geglu", "golu", "pau", "polynorm", "swish", "xatlu", "xgelu")


@pytest.mark.parametrize("name", SMOOTH)
def test_second_derivatives(name):
    module = qact.activation(name, C).double()
    x = (torch.randn(2, C, 2, dtype=torch.float64) + 0.1).requires_grad_()
    parameters = [p for p in module.parameters() if p.requires_grad]
    assert torch.autograd.gradgradcheck(lambda x, *_: module(x), (x, *parameters), atol=1e-4)


@pytest.mark.parametrize("name", COMPOSED)
@pytest.mark.parametrize("shape", [(0, C), (1, C), (0, C, 3, 3)])
def test_few_values(name, shape, monkeypatch):
    monkeypatch.setattr(recompute, "PIECE", 4)
    x = torch.randn(shape, requires_grad=True)
    y = qact.activation(name, C)(x)
    y.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("name", ["golu", "swish", "pau", "aptx", "polyrelu"])
def test_scalars(name):
    x = torch.tensor(0.7, requires_grad=True)
    module = qact.activation(name, C)
    y = module(x)
    y.backward()
    torch.testing.assert_close(y.detach(), module(torch.tensor([0.7]))[0].detach())


@pytest.mark.parametrize("name", COMPOSED)
def test_only_the_input_is_saved(name):
    module = qact.activation(name, C)
    small = sum(t.numel() for t in (*module.parameters(), *module.buffers()))
    x = torch.randn(16, C, 8, 8, requires_grad=True)
    saved: dict[int, int] = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(x)
    assert sum(saved.values()) <= x.nbytes + 8 * 4 * (small + 1)


@pytest.mark.parametrize("name", COMPOSED)
def test_values_and_gradients_in_float32(name):
    torch.manual_seed(0)
    module = qact.activation(name, C)
    with torch.no_grad():  # off the start, where derivatives vanish or functions are simpler
        for p in module.parameters():
            p.add_(0.05 * torch.randn_like(p))
    x = 2 * torch.randn(3, C, 9, 8)
    slope = torch.randn_like(x).transpose(0, 3).contiguous().transpose(0, 3)
    exact = run(copy.deepcopy(module).double(), x.double(), slope.double())
    for got, want in zip(run(module, x, slope), exact, strict=True):
        scale = max(1.0, want.abs().max().item())
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=2e-5 * scale)


def test_halves_of_the_first_dimension_are_not_cut(monkeypatch):
    monkeypatch.setattr(recompute, "PIECE", 4)
    x = torch.randn(8, 3)
    want = x[:4] * torch.sigmoid(x[4:])
    torch.testing.assert_close(qact.activation("glu", dim=0)(x), want)
    torch.testing.assert_close(qact.activation("glu", dim=-2)(x), want)


def test_a_tie_of_maxout_goes_to_the_first():
    x = torch.ones(1, 2, 3, requires_grad=True)
    qact.activation("maxout")(x).sum().backward()
    assert torch.equal(x.grad, torch.tensor([[[1.0] * 3, [0.0] * 3]]))


@pytest.mark.parametrize("name", ["golu", "aptx", "swish", "xatlu", "polyrelu", "tmaf"])
def test_what_is_not_a_number_stays_so(name):
    x = torch.tensor([1.0, math.nan, -1.0, 0.0] * 8)
    assert torch.equal(qact.activation(name)(x).isnan(), x.isnan())


@pytest.mark.parametrize("name", ["golu", "aptx", "swish", "xgelu", "aglu", "crrelu"])
def test_large_values_do_not_overflow(name):
    x = torch.tensor([-1e4, -88.0, 88.0, 1e4])
    y = qact.activation(name)(x).detach()
    torch.testing.assert_close(y, x.clamp_min(0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["clipact", "tmaf", "clipped_soft_threshold", "crrelu", "helu"])
def test_a_compiled_graph_keeps_no_masks(name):
    """Inductor reads and writes them slowly; values and gradients are those of eager PyTorch."""
    torch.compiler.reset()
    module = qact.activation(name, C)
    compiled = torch.compile(
        lambda x: module(1.5 * x), fullgraph=True, backend="aot_eager_decomp_partition"
    )
    x, kept = 2 * torch.randn(20, C), []
    x[0, :4] = torch.tensor([0.0, -0.0, 1.0, 2.0])
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.dtype) or t, lambda t: t):
        got = compiled(a)
    assert kept
    assert torch.bool not in kept
    want = module(1.5 * b)
    got.sum().backward()
    want.sum().backward()
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("name", qact.list_activations(alone=True))
def test_transforms_of_torch_give_the_gradients_of_backward(name):
    """Gradients of single samples, and derivatives in forward mode."""
    layer, x = qact.activation(name, 4).double(), torch.randn(3, 4, 2, 2, dtype=torch.float64)
    layer(x)
    layer.eval()

    def loss(x):
        return layer(x).square().sum()

    point = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(loss(point), point)
    single = torch.func.vmap(torch.func.grad(lambda row: loss(row[None])))
    torch.testing.assert_close(single(x), want, rtol=1e-9, atol=1e-12)
    moved = torch.func.jvp(loss, (x,), (x,))[1].detach()
    torch.testing.assert_close(moved, (want * x).sum(), rtol=1e-9, atol=1e-12)


def test_forward_mode_over_forward_mode_is_refused():
    layer = qact.activation("golu")
    with pytest.raises(RuntimeError, match="no second derivative in forward mode over forward"):
        torch.func.jacfwd(torch.func.jacfwd(layer))(torch.tensor(0.5))
    assert torch.func.hessian(layer)(torch.tensor(0.5)).isfinite()
