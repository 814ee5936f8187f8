"""Saved memory, and that cutting a tensor into pieces changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch

import qact
from qact.activations import fused

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
    monkeypatch.setattr(fused, "PIECE", 100)
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
    monkeypatch.setattr(fused, "PIECE", 4)
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
