"""Quantisers by hand, ranges against a search over the values, networks equal before and after."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qact
from qact.taps import (
    Log,
    ShiftLog,
    Uniform,
    awq_scales,
    clip_range,
    fit_log,
    fit_shift,
    hadamard,
    kurtosis,
    noisy_linear,
    quantise,
    reparameterise,
    softmax_bias,
)  # fmt: skip
from qact.taps.quantisers import error

G = torch.Generator().manual_seed(0)
WEIGHTS = (3 * torch.randn(200, 16, generator=G)).softmax(1)  # long tails in (0, 1)


def test_uniform_is_that_of_torch():
    x = torch.randn(500, generator=G)
    for bits, low, high in ((8, -2.0, 3.0), (4, 0.0, 1.5), (2, -1.0, 0.0)):
        step = (high - low) / (2**bits - 1)
        zero = round(-low / step)
        other = torch.fake_quantize_per_tensor_affine(x, step, zero, 0, 2**bits - 1)
        torch.testing.assert_close(Uniform(bits, low, high)(x), other, atol=1e-6, rtol=1e-6)
    channels = torch.randn(50, 4, generator=G)
    per = Uniform(4, channels.amin(0), channels.amax(0))(channels)
    for c in range(4):
        alone = Uniform(4, float(channels[:, c].min()), float(channels[:, c].max()))
        torch.testing.assert_close(per[:, c], alone(channels[:, c]))
    assert (Uniform(3, -0.7, 0.9)(torch.zeros(1)) == 0).all()


def test_logarithms_by_hand():
    half = Log(4, base=2**0.5)
    assert half.codes(torch.tensor(0.3)) == 3
    assert half(torch.tensor(0.3)).item() == pytest.approx(2**-1.5)
    two = Log(3)
    assert two.codes(torch.tensor([1.0, 0.5, 0.3, 0.0])).tolist() == [0, 1, 2, 7]
    assert two(torch.tensor([1.0, 0.5, 0.3, 0.0])).tolist() == [1, 0.5, 0.25, 2**-7]


def test_the_shifted_logarithm_covers_all_and_beats_log2_where_tails_are_long():
    shifted = fit_shift(WEIGHTS, 4)
    assert error(shifted, WEIGHTS) < error(Log(4), WEIGHTS)
    ends = ShiftLog(3, shift=2.0**-6)
    assert ends.codes(torch.tensor([0.0, 1.0])).tolist() == [7, 0]
    torch.testing.assert_close(ends(torch.tensor([0.0, 1.0])), torch.tensor([0.0, 1.0]))


def test_a_searched_base_is_no_worse_than_two_and_its_root():
    found = error(fit_log(WEIGHTS, 4), WEIGHTS)
    assert found <= min(error(Log(4), WEIGHTS), error(Log(4, 2**0.5), WEIGHTS))


def test_gradients_pass_straight_through():
    x = torch.randn(9, requires_grad=True)
    (Uniform(2, -1.0, 1.0)(x) * torch.arange(9.0)).sum().backward()
    assert torch.equal(x.grad, torch.arange(9.0))


HEAVY = torch.randn(4000, 3, generator=G) / torch.rand(4000, 3, generator=G).clamp_min(0.05)


def test_ranges_are_those_that_the_values_themselves_have():
    context = qact.Context(3, 1024).add(HEAVY)
    low, high = clip_range(context, 8, "minmax")
    assert (low, high) == pytest.approx((float(HEAVY.min()), float(HEAVY.max())), rel=0.01)
    ends = clip_range(context, 8, "quantile", 0.98)
    assert ends == pytest.approx(
        torch.quantile(HEAVY.flatten(), torch.tensor([0.01, 0.99])).tolist(), rel=0.02
    )
    for bits in (3, 6):
        found = error(Uniform(bits, *clip_range(context, bits, "mse")), HEAVY)
        tried = [
            error(Uniform(bits, f * low, f * high), HEAVY)
            for f in torch.linspace(0.1, 1, 91).tolist()
        ]
        assert found <= 1.03 * min(tried)
    assert clip_range(context, 4, "kl")[1] < high


def test_by_divergence_all_of_a_uniform_law_is_kept_and_tails_are_not():
    even = qact.Context(1, 1024).add(torch.rand(20_000, 1, generator=G))
    assert clip_range(even, 6, "kl")[1] > 0.97
    tailed = qact.Context(1, 1024).add(torch.randn(20_000, 1, generator=G).abs() ** 3)
    assert clip_range(tailed, 6, "kl")[1] < 0.8 * float(tailed.quantile(1.0))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 16), qact.QAct(16),
        nn.Linear(16, 3),
    )  # fmt: skip
    for _ in range(3):
        model(torch.randn(64, 2, 6, 6))
    return model.eval()


X = torch.randn(100, 2, 6, 6, generator=G)


@pytest.mark.own_seed  # for which errors fall at every width
@pytest.mark.parametrize("clip", ["minmax", "quantile", "mse", "kl"])
def test_outputs_have_so_many_values_and_errors_fall_with_bits(net, clip):
    plain, errors = net(X), []
    for bits in (2, 4, 8, 16):
        with quantise(net, X, bits, clip=clip), qact.tap(net, ["1", "4"]) as seen:
            out = net(X)
        assert all(len(seen[name].unique()) <= 2**bits for name in ("1", "4"))
        errors.append(float((out - plain).square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6 if clip == "minmax" else True
    assert torch.equal(net(X), plain)


def test_contexts_and_quantisers_may_be_given(net):
    observing = qact.tap(net, ["1", "4"]).observe(bins=512)
    observing.run(X)
    with quantise(net, observing, 4, ["1", "4"]):
        one = net(X)
    with quantise(net, X, 4):
        two = net(X)
    assert torch.equal(one, two)
    with quantise(net, X, 4, "1", quantisers={"1": Log(4)}), qact.tap(net, "1") as seen:
        net(X)
    assert torch.equal(seen["1"], Log(4)(net[:2](X)))


def test_kurtosis():
    assert float(kurtosis(torch.randn(200_000, generator=G))) == pytest.approx(3, abs=0.05)
    even = (torch.arange(10_000.0) + 0.5) / 10_000
    assert float(kurtosis(even)) == pytest.approx(1.8, abs=1e-3)
    layer = qact.QAct(1, levels="uniform", grounded=False)
    assert float(kurtosis(layer(torch.randn(4000, 1)))) == pytest.approx(1.8, abs=0.02)
    x = HEAVY[:, 0].clone().requires_grad_()
    kurtosis(x).backward()
    assert kurtosis(x.detach() - 0.1 * x.grad / x.grad.norm() * x.detach().norm()) < kurtosis(x)
    assert kurtosis(HEAVY, 0).shape == (3,)


def test_noise_before_rounding_is_taken_away_behind_the_layer():
    w, b, n = torch.randn(5, 4), torch.randn(5), torch.rand(4) - 0.5
    x = torch.randn(20, 4)
    exact = F.linear(x, w, b)
    torch.testing.assert_close(noisy_linear(x, w, b, n, lambda z: z), exact, atol=1e-5, rtol=1e-4)
    # At a bin's edge, half a bin b = 1/2 away, and at its centre; noise in (-n, n):
    reach = 0.4
    noise = (2 * torch.rand(200_000, dtype=torch.float64) - 1) * reach
    for place, expected in ((0.5, 0.25 - 0.5 * reach + reach**2 / 3), (0.0, reach**2 / 3)):
        found = ((place + noise).round() - noise - place).square().mean()
        assert float(found) == pytest.approx(expected, rel=0.02)


def test_softmax_outputs_sum_to_one_in_the_mean_again():
    coarse = Log(2)
    beta = softmax_bias(WEIGHTS, coarse)
    assert float((coarse(WEIGHTS) + beta).sum(1).mean()) == pytest.approx(1, abs=1e-5)
    assert softmax_bias(WEIGHTS, lambda p: p) == 0


def test_rotations_are_the_identity_and_spread_outliers():
    h = hadamard(16)
    torch.testing.assert_close(h @ h.T, torch.eye(16, dtype=torch.float64))
    torch.testing.assert_close(torch.eye(16, dtype=torch.float64)[3] @ h, h[3])
    assert (h[3].abs() == 0.25).all()
    x, w = (
        torch.randn(50, 16).double() / torch.rand(50, 16).double().clamp_min(0.02),
        torch.randn(16, 8),
    )
    torch.testing.assert_close((x @ h) @ (h.T @ w.double()), x @ w.double())

    def loss(z):
        return error(Uniform(4, float(z.min()), float(z.max())), z)

    assert loss(x @ h) < loss(x)
    with pytest.raises(ValueError, match="size=12 must be a power of two"):
        hadamard(12)


def test_scales_of_channels_become_one_of_the_layer():
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(6).double(), nn.Linear(6, 4).double()
    with torch.no_grad():
        norm.weight.uniform_(0.2, 5), norm.bias.normal_()
    n = F.layer_norm(torch.randn(80, 6).double(), (6,))
    x = n * norm.weight + norm.bias
    scale = (x.amax(0) - x.amin(0)) / 255
    zero = -x.amin(0) / scale
    new, folded = reparameterise(
        (norm.weight, norm.bias), (linear.weight, linear.bias), scale, zero
    )
    moved = n * new[0] + new[1]
    torch.testing.assert_close(F.linear(moved, *folded), linear(x))
    one = (moved / scale.mean() + zero.mean()).round()
    torch.testing.assert_close(one, (x / scale + zero).round())


def test_searched_scales_are_no_worse_than_rounding_to_the_nearest():
    torch.manual_seed(0)
    w, x = torch.randn(64, 64), torch.randn(200, 64) * torch.logspace(-1, 1.5, 64)
    scales, errors = awq_scales(w, x, bits=3)
    rows = Uniform(3, w.amin(1, keepdim=True), w.amax(1, keepdim=True))
    nearest = float((x @ rows(w).T - x @ w.T).square().mean())
    assert errors[0] == pytest.approx(nearest, rel=1e-4)  # alpha = 0
    assert min(errors) < 0.75 * nearest  # 0.59 with a spread of 0.03 over seeds
    torch.testing.assert_close((x / scales) @ (w * scales).T, x @ w.T, atol=1e-3, rtol=1e-3)


REFUSALS = {
    "bits": (lambda n: quantise(n, X, 0), "bits=0"),
    "clip": (lambda n: quantise(n, X, clip="best"), "clip='best'"),
    "place": (lambda n: quantise(n, X, where="9"), "unknown place '9'"),
    "context": (lambda n: quantise(n, {"1": qact.Context(8).add(torch.randn(9, 8))}, where="4"),
                "no context for '4'"),
    "nan": (lambda n: quantise(n, X * torch.nan), "at '1': it holds nan"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(net, case):
    use, words = REFUSALS[case]
    with pytest.raises(ValueError, match=words):
        use(net)
