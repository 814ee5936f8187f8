"""Forms in any unit and dtype, against their formulas in float64; masks of every kind."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact import attention, convert
from qact.attention import Attention, Normaliser, form

H, D, L = 2, 4, 9


def heads(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def of_logarithms(a: Tensor, b: Tensor) -> Tensor:
    """``sum_f e^(a_f + b_f)``, rows divided by their sums, in float64 without a small number."""
    a, b = a.double(), b.double()
    return torch.logsumexp(a[..., :, None, :] + b[..., None, :, :], -1).softmax(-1)


def log_elu(t: Tensor) -> Tensor:
    t = t.double()
    return torch.where(t > 0, torch.log1p(t.clamp_min(0)), t)


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (1, -12), (30, 0), (1, -300), (1e6, 0)])
def test_features_of_exponents_are_those_of_float64(scale, shift):
    q, k = scale * heads(2, H, L, D) + shift, scale * heads(2, H, L, D, seed=1) + shift
    torch.manual_seed(0)
    want = {"elu": of_logarithms(log_elu(q), log_elu(k))}
    favor, hedgehog = form("favor", H, D), form("hedgehog", H, D, kind="exp")
    omega, root = favor.omega.double(), D**-0.25
    shrunk = k.double().square().sum(-1, keepdim=True) / (2 * math.sqrt(D))
    want["favor"] = of_logarithms(root * q.double() @ omega.T, root * k.double() @ omega.T - shrunk)
    a, b = root * q.double(), root * k.double()
    want["hedgehog"] = of_logarithms(torch.cat([a, -a], -1), torch.cat([b, -b], -1))
    for it in (form("elu", H, D), favor, hedgehog):
        name = type(it).__name__.lower()
        # A float32 exponent of size e is off by e 2^-24.
        slack = 1e-5 + 1e-6 * min(float(q.abs().max()) * float(k.abs().max()), 300)
        if scale < 1e6 or name == "elu":
            torch.testing.assert_close(it.weights(q, k).double(), want[name], rtol=0, atol=slack)
        assert it(q, k, q).isfinite().all()
        assert torch.allclose(it.weights(q, k).sum(-1), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1.0, 1e30])
def test_cosformer_knows_no_unit(scale):
    q, k = heads(2, H, L, D), heads(2, H, L, D, seed=1)
    for it in (form("cosformer", H, D), form("cosformer", H, D, causal=True)):
        torch.testing.assert_close(it.weights(scale * q, scale * k), it.weights(q, k))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "name",
    ["elu", "mala", "taylorshift", "cosformer", "rank_augmented", "galerkin", "agent", "favor"],
)
def test_long_rows_in_half_precision_are_those_of_float64(name, dtype):
    """2,048 keys of 64 features sum to more than 65,504, where float16 ends."""
    torch.manual_seed(0)
    it = form(name, 1, 64).to(dtype)
    q, k, v = (heads(1, 1, 2048, 64, seed=s).to(dtype) for s in range(3))
    x, keep = heads(1, 2048, 64, seed=3).to(dtype), torch.arange(2048) < 2000
    with torch.no_grad():
        got = it(q, k, v, x, keep)
        want = copy.deepcopy(it).double()(*(t.double() for t in (q, k, v, x)), keep)
    assert got.dtype == dtype
    error = (got.double() - want).abs().max() / want.abs().max()
    assert error < (0.01 if dtype == torch.float16 else 0.06)
    with torch.autocast("cpu", dtype), torch.no_grad():
        got = it.float()(*(t.float() for t in (q, k, v, x)), keep)
    assert (got.double() - want).abs().max() / want.abs().max() < 0.02


def test_scores_of_half_precision_do_not_end_at_65504():
    q, v = (40 * heads(2, H, 5, 64, seed=s).half().sign() for s in range(2))
    for name in ("entmax15", "sigmoid", "rela", "softmax"):
        it = form(name, H, 64).half()
        exact = form(name, H, 64).double()
        torch.testing.assert_close(
            it.quadratic(q, q, v).double(),
            exact(q.double(), q.double(), v.double()),
            rtol=2e-3,
            atol=2e-3,
        )
    net = nn.MultiheadAttention(64, 1, batch_first=True)
    nn.init.eye_(net.out_proj.weight)
    net.in_proj_weight.data = torch.eye(64).repeat(3, 1)
    ours, x = convert(net, normaliser="softmax").half(), q[:, 0]
    want = net.double()(*[x.double()] * 3)[0]
    torch.testing.assert_close(ours(x, x, x)[0].double(), want, rtol=2e-3, atol=2e-3)


def test_decay_is_kept_where_gates_are_shut_for_long():
    torch.manual_seed(0)
    it, tokens = form("forgetting", 1, D, True), 600
    q, k = (heads(1, 1, tokens, D, seed=s) for s in range(2))
    x = heads(1, tokens, D, seed=4)
    with torch.no_grad():
        it.gate.bias.fill_(-700.0)
        it.gate.weight.mul_(1e-3)
        x[..., -40:, :] = 0
        got = it.bias(q, k, x, None)
        want = copy.deepcopy(it).double().bias(q.double(), k.double(), x.double(), None)
    near = want > -3000  # a few tokens behind: the sums themselves are 420,000
    assert int(near.sum()) > 1000
    torch.testing.assert_close(got[near].double(), want[near], rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("name", ["inline", "mala"])
def test_large_products_do_not_swallow_even_weights(name):
    one = 1e4 * heads(1, H, 1, D).abs()
    assert torch.equal(form(name, H, D).weights(one, one), torch.ones(1, H, 1, 1))
    same = one.expand(1, H, 2, D)  # two, so that their mean is exact
    torch.testing.assert_close(form(name, H, D).weights(same, same), torch.full((1, H, 2, 2), 0.5))


def test_rows_of_negative_features_keep_their_weights_in_mala():
    q, k = heads(2, H, L, D) - 200, heads(2, H, L, D, seed=1) - 200
    want = of_logarithms(q, k)  # S is e^-400: of (1 + 1/S) phi phi - S/N the middle is left
    torch.testing.assert_close(
        form("mala", H, D).weights(q, k).double(), want, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("name", attention.names())
def test_rows_without_a_key_are_zero_and_so_are_their_gradients(name):
    torch.manual_seed(0)
    layer = Attention(8, 2, name, causal=name == "forgetting")
    x = heads(3, 6, 8).requires_grad_()
    keep = torch.ones(3, 1, 1, 6, dtype=torch.bool)
    keep[0, ..., 3:], keep[1] = False, False
    for dtype in (torch.float32, torch.float16):
        made = copy.deepcopy(layer).to(dtype)
        output = made(x.to(dtype), mask=keep)
        (gradient,) = torch.autograd.grad(output.float().square().sum(), x)
        assert output.isfinite().all()
        assert gradient.isfinite().all()
        if name not in ("shaped", "soft"):  # a token keeps itself in the one, keys are queries
            bias = layer.out.bias.to(dtype).expand_as(output[1])
            torch.testing.assert_close(output[1], bias)


@pytest.mark.parametrize("name", ["softmax", "entmax15", "gated", "ssa", "forgetting"])
def test_a_mask_is_boolean_or_additive_and_fits(name):
    it, q, x = form(name, H, D, name == "forgetting"), heads(2, H, L, D), heads(2, L, H * D)
    keep = torch.arange(L) < 4
    want = it(q, q, q, x, keep.expand(2, 1, 1, L))
    torch.testing.assert_close(it(q, q, q, x, keep), want)  # of keys alone
    torch.testing.assert_close(it(q, q, q, x, torch.zeros(L).masked_fill(~keep, -math.inf)), want)
    for bad in (keep.long(), keep.byte()):
        with pytest.raises(TypeError, match=r"mask must be boolean .* got torch"):
            it(q, q, q, x, bad)
    for bad in (keep[:-1], keep.expand(1, 2, H, L, L)):
        with pytest.raises(ValueError, match=r"must broadcast to the scores' \(2, 2, 9, 9\)"):
            it(q, q, q, x, bad)


def test_a_mask_of_integers_is_refused_by_torchs_module_converted():
    net, x = convert(nn.MultiheadAttention(8, 2), normaliser="entmax15"), torch.randn(3, 1, 8)
    for masks in ({"attn_mask": torch.ones(3, 3).long()}, {"key_padding_mask": x[..., :3].int()}):
        with pytest.raises(TypeError, match="masks must be boolean"):
            net(x, x, x, **masks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_masks_are_known_beneath_what_they_are_added_to(dtype):
    """-10,000 + 20 in float32, and -9,984 in bfloat16, are masks as -10,000 is."""
    scores, mask = torch.tensor([[[[2.0, 0.0, 20.0]]]], dtype=dtype), torch.tensor([0, 0, -1e4])
    for name in ("taylor", "rank", "normalised", "softmax"):
        got = Normaliser(1, name)(scores + mask.to(dtype))
        want = Normaliser(1, name)(scores[..., :2])
        torch.testing.assert_close(got, F.pad(want, (0, 1)))
