"""Large tensors go other ways through memory, and rows end where no vector does."""

import pytest
import torch

from qact.kernels import plan as plans
from qact.kernels.cpu import block, pages, rows
from qact.rank.bandwidth import parse
from qact.rank.rule import Rule

PLAN = plans.planned(Rule("sides", bandwidth=parse("scott")), "relu", eps_in=1e-5)


def passes(z, grad, channels=slice(None)):
    """The output and the gradient of some channels alone."""
    count = z.shape[1]
    norm = torch.linspace(0.5, 2, count)[channels], torch.linspace(-1, 1, count)[channels]
    affine = (*norm, *(None,) * 4)
    z, grad = z[:, channels].contiguous(), grad[:, channels].contiguous()
    out, *saved = block.forward(z, PLAN, affine)
    return out, block.backward(z, grad, PLAN, affine, *saved)[0]


def test_a_large_tensor_is_written_past_the_caches_and_is_the_same():
    z = torch.randn(2, 8, rows.FRESH // 16)
    grad, some = torch.randn_like(z), slice(2, 4)
    assert z.numel() >= rows.FRESH
    assert z.nbytes >= pages.LEAST
    for whole, part in zip(passes(z, grad), passes(z, grad, some), strict=True):
        assert torch.equal(whole[:, some], part)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_memory_for_as_much(dtype, monkeypatch):
    monkeypatch.setattr(pages, "LEAST", 1 << 22)
    like = torch.zeros(3, 1 << 20, 1, dtype=dtype)
    out = pages.empty_like(like).fill_(2)
    assert (out.dtype, out.shape, out.stride()) == (dtype, like.shape, like.stride())
    assert out.sum() == 2 * like.numel()
    monkeypatch.setattr(pages, "_ADVISE", None)
    assert pages.empty_like(like).shape == like.shape


@pytest.mark.own_seed  # for which rounding puts no value on the other side of a bin's edge
@pytest.mark.parametrize("shape", [(5, 3, 7), (13, 2, 79), (3, 2, 341), (1, 2, 17), (9, 4, 1)])
def test_values_left_over_by_vectors_are_as_those_within(shape):
    """Turned around, each value changes places between the two, and keeps its numbers."""
    z, grad = torch.randn(shape), torch.randn(shape)
    out, back = passes(z, grad)
    turned = passes(z.flip(0, 2).contiguous(), grad.flip(0, 2).contiguous())
    torch.testing.assert_close(turned[0].flip(0, 2), out, atol=1e-5, rtol=0)
    torch.testing.assert_close(turned[1].flip(0, 2), back, atol=1e-5, rtol=0)
