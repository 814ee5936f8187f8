"""Channels of few values side by side: the same numbers as one channel after the other."""

import pytest
import torch

import qact
from qact.context import Context
from qact.kernels import plan as plans
from qact.kernels.columns import ABREAST, FINITE
from qact.kernels.cpu import block
from qact.kernels.following import Following
from qact.nn.normed import NormedQAct
from qact.rank.bandwidth import parse
from qact.rank.rule import Rule

pytestmark = pytest.mark.skipif(not block.WIDE, reason="a processor without such vectors")


FEW = block._few


def both_ways(z, plan, affine, monkeypatch, batches=1):
    """State, output, gradients and context, side by side and one after the other."""
    found, grad = [], torch.randn_like(z[0])
    for few in (FEW, lambda z, plan: False):
        monkeypatch.setattr(block, "_few", few)
        context = Context(z.shape[2])
        following = Following(context.tensors, context.batches, 0.1)
        for batch in z:
            out, *saved = block.forward(batch, plan, affine, following)
        back = block.backward(z[-1], grad, plan, affine, *saved)
        found.append((saved[0], out, *back, *summary(context)))
    return found


def summary(context):
    """What does not jump where rounding puts a value on the other side of a bin's edge."""
    places = context.mass.double() * torch.arange(context.bins) + context.moment
    total = context.mass.sum(1, dtype=torch.float64)
    return total, places.sum(1), context.mean, context.std, context.exponent, context.offset


def affines(channels):
    weight = torch.rand(channels) + 0.5
    weight[1::3] *= -1
    return torch.rand(channels) + 0.5, torch.randn(channels), weight, torch.randn(channels)


def close(got, want, atol=2e-5):
    scale = want[want.isfinite()].abs().max() if want.isfinite().any() else 1
    torch.testing.assert_close(got / scale, want / scale, atol=atol, rtol=0, equal_nan=True)


RULES = [
    Rule(True, bandwidth=parse("0.2std")),
    Rule(False, bandwidth=parse("scott")),
    Rule("sides", bandwidth=parse(0.3), gradient="density", sentinels=1.0),
]


@pytest.mark.own_seed  # for which rounding puts no value on the other side of a bin's edge
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["relu", "normal", "uniform"])
def test_side_by_side_is_one_after_the_other(rule, kind, monkeypatch):
    for n, channels, eps in ((128, 37, 1e-5), (5, 3, None), (300, 16, 1e-5)):
        torch.manual_seed(n)
        z = torch.randn(6, n, channels, 1) * 1.7 + 0.3
        affine = (*affines(channels), None, None)
        plan = plans.planned(rule, kind, eps_in=eps)
        (state, *got), (_, *want) = both_ways(z, plan, affine, monkeypatch)
        assert (state[:, FINITE] == ABREAST).float().mean() > 0.6
        for a, b in zip(got, want, strict=True):
            close(a.double(), b.double())


@pytest.mark.own_seed  # for which rounding puts no value on the other side of a bin's edge
def test_channels_that_ask_for_more_care_are_left(monkeypatch):
    torch.manual_seed(0)
    z = torch.randn(2, 64, 40, 1)
    z[:, 0, 0], z[:, 3, 1], z[:, :, 2] = torch.nan, torch.inf, 3.0
    z[:, :, 3] *= 1e30
    z[:, :, 4] *= 1e-30
    z[:, 5, 5] = 1e6
    z[:, :, 6] = -z[:, :, 6].abs()
    z[:, :, 7] = (z[:, :, 7] > 1).float()
    affine = [*affines(40), None, None]
    affine[2][8], affine[0][9], affine[1][10], affine[2][11] = 0.0, 0.0, torch.nan, -2.0
    for eps in (None, 1e-5):
        plan = plans.planned(RULES[0], "relu", eps_in=eps)
        (state, *got), (_, *want) = both_ways(z, plan, tuple(affine), monkeypatch)
        taken = state[:, FINITE] == ABREAST
        assert not taken[[0, 1, 2, 3, 8]].any()
        assert taken[11:].all()
        assert taken[6]
        assert got[0][:, 0].isnan().all()
        assert not got[0][:, 2:10].isnan().any()
        for a, b in zip(got[:2], want[:2], strict=True):
            for c in range(40):
                close(a[:, c].double(), b[:, c].double())
        for a, b in zip(got[2:], want[2:], strict=True):
            a, b = (t.T if len(t) == 6 else t for t in (a, b))
            for one, other in zip(a, b, strict=True):
                close(one.double(), other.double())


@pytest.mark.own_seed  # a bound that most draws keep
@pytest.mark.parametrize("n", [31, 128, 400])
def test_as_the_reference_has_it(n):
    torch.manual_seed(n)
    layer = NormedQAct(19, levels="normal").train()
    exact = NormedQAct(19, levels="normal", engine="reference").train()
    for one in (layer, exact):
        torch.manual_seed(1)
        for parameter in one.parameters():
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    x, grad = torch.randn(n, 19).exp(), torch.randn(n, 19)
    a, b = x.clone().requires_grad_(), x.double().requires_grad_()
    out, want = layer(a), exact.double()(b)
    out.backward(grad)
    want.backward(grad.double())
    assert (out - want).abs().max() < 2e-2
    assert (out - want).abs().mean() < 1e-3
    assert (a.grad - b.grad).norm() < 0.01 * b.grad.norm()
    got, want = (torch.cat([p.grad.double() for p in m.parameters()]) for m in (layer, exact))
    assert (got - want).norm() < 0.02 * want.norm()


def test_threads_change_nothing():
    torch.manual_seed(0)
    x, seen = torch.randn(128, 130), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            layer, z = NormedQAct(130), x.clone().requires_grad_()
            layer(z).square().sum().backward()
            seen.append((z.grad, layer.quantile.weight.grad, *layer.quantile.context.tensors))
    finally:
        torch.set_num_threads(before)
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


def test_halves_and_the_compiled_operator():
    torch.manual_seed(0)
    x = torch.randn(64, 20)
    plan = plans.planned(RULES[0], "relu")
    want, *_ = block.forward(x[:, :, None], plan, (None,) * 6)
    for dtype in (torch.bfloat16, torch.float16):
        got, *_ = block.forward(x.to(dtype)[:, :, None], plan, (None,) * 6)
        assert got.dtype == dtype
        assert (got.float() - want).abs().max() < 0.1
    graph, *_ = torch.ops.qact.block(x[:, :, None], *(None,) * 6, plan.arguments())
    assert torch.equal(graph, want)


@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 3), (6, 5, 2, 2)])
def test_an_output_may_be_changed_in_place_and_gradients_come_in_batches(shape):
    torch.manual_seed(0)
    layer, x = NormedQAct(5).train(), torch.randn(shape, requires_grad=True)
    out, grads = layer(x), torch.randn(3, *shape)
    single = [torch.autograd.grad(out, x, g, retain_graph=True)[0] for g in grads]
    (batched,) = torch.func.vmap(lambda g: torch.autograd.grad(out, x, g, retain_graph=True))(grads)
    torch.testing.assert_close(batched, torch.stack(single))
    out.mul_(2)
    out.backward(grads[0])
    torch.testing.assert_close(x.grad, 2 * single[0])
    assert not any(p.grad._is_view() for p in layer.parameters())


@pytest.mark.parametrize("channels", [16, 19])
def test_under_vmap_channels_find_their_own_tables(channels):
    """Kept side by side with others than those that stand beside them in the backward pass."""
    torch.manual_seed(0)
    x, grads = torch.randn(64, channels, requires_grad=True), torch.randn(3, 64, channels)
    out = qact.functional.quantile_activation(x, levels="relu")
    (single,) = torch.autograd.grad(out, x, grads[2], retain_graph=True)
    batched = torch.func.vmap(lambda g: torch.autograd.grad(out, x, g, retain_graph=True)[0])(grads)
    torch.testing.assert_close(batched[2], single)
