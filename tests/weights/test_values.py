"""Closed forms, limits and identities of each map, by hand or from torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qact import weights

E = math.e
VALUES = [
    ("sparsemax", {}, [0.5, 0], [0.75, 0.25]),
    ("sparsemax", {}, [1.0, 0], [1, 0]),
    ("sparsemax", {}, [7.0, 0], [1, 0]),
    ("entmax15", {}, [1.0, 0], [0.830719, 0.169281]),
    ("entmax15", {}, [2.0, 0], [1, 0]),
    ("softpick", {"eps": 0.0}, [math.log(2), 0, -math.log(2)], [2 / 3, 0, 0]),
    ("softpick", {}, [-1.0, -2.0, 0], [0, 0, 0]),
    ("softpick", {}, [1000.0, 999.0, 0], [1 / (1 + 1 / E), 1 / (1 + E), 0]),
    ("stablemax", {}, [1.0, -1.0], [0.8, 0.2]),
    ("taylor", {}, [1.0, 0], [5 / 7, 2 / 7]),
    ("power", {}, [1.0, 2.0, -3.0], [1 / 14, 4 / 14, 9 / 14]),
    ("power", {"r": 4}, [1.0, 2.0, -3.0], [1 / 98, 16 / 98, 81 / 98]),
    ("power", {}, [0.0, 0.0], [0.5, 0.5]),
    ("self_adjust", {}, [1.0, 0], [0.731059, 0]),
    ("self_adjust", {"normalised": False}, [1.0, 0], [0.731059, 0]),
    ("self_adjust", {}, [-1.0, -2.0], [0.365529, 0]),
    ("self_adjust", {}, [0.0, 0.0], [0.5, 0.5]),
    ("relu", {}, [2.0, -1.0, 1.0, 0], [0.5, 0, 0.25, 0]),
    ("rela", {}, [2.0, -1.0], [2, 0]),
    ("sigmoid", {}, [0.0] * 9, [0.1] * 9),
    ("sigmoid", {"b": 0.0}, [0.0, 1.0], [0.5, 0.731059]),
    ("normalised", {}, [1.0, 3.0], [-1, 1]),
    ("normalised", {}, [2.0, 2.0], [0, 0]),
    ("sdm", {"q": 2, "d": 0.5}, [1.0, 0], [2 / 3, 1 / 3]),
    ("sdm", {"d": 0.0}, [5.0, 0], [0.5, 0.5]),
    ("rank", {"power": 1}, [1.0, 50.0, 2.0], [1 / 9, 5 / 9, 3 / 9]),
    ("rank", {"power": 1}, [1.0, 1.0, 1.0], [1 / 3] * 3),
    ("rank", {"power": 2}, [0.0, 1.0], [1 / 10, 9 / 10]),
    ("softplus", {}, [0.0, 0.0], [0.5, 0.5]),
    ("softplus", {}, [-100.0, -101.0], [0.731059, 0.268941]),
    ("ssmax", {"s": 2.0}, [1.0, *[0.0] * 99], [10000 / 10099, *[1 / 10099] * 99]),
]


@pytest.mark.parametrize(("name", "options", "scores", "want"), VALUES)
def test_values(name, options, scores, want):
    got = weights.create(name, **options).double()(torch.tensor(scores, dtype=torch.float64))
    torch.testing.assert_close(
        got.detach(), torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-6
    )


def rows(n: int = 7, count: int = 50) -> Tensor:
    return 2 * torch.randn(
        count, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("softmax", {}),
        ("entmax", {"alpha": 1}),
        ("entmax", {"alpha": 1.0001}),
        ("clipped", {"gamma": 0.0, "zeta": 1.0}),
        ("sdm", {}),
        ("ssmax", {"s": 1 / math.log(7)}),
    ],
)
def test_limits_that_are_softmax(name, options):
    got = weights.create(name, **options).double()(rows())
    close = 2e-4 if options.get("alpha") == 1.0001 else 1e-7
    torch.testing.assert_close(got, torch.softmax(rows(), -1), rtol=0, atol=close)


@pytest.mark.parametrize(("alpha", "name"), [(2.0, "sparsemax"), (1.5, "entmax15")])
def test_limits_of_entmax(alpha, name):
    torch.testing.assert_close(weights.entmax(rows(), alpha=alpha), weights.create(name)(rows()))
    near = weights.entmax(rows(), alpha=alpha + 1e-9)  # by another way to the root
    torch.testing.assert_close(near, weights.create(name)(rows()), rtol=0, atol=1e-7)


def test_the_jacobian_of_sparsemax():
    z = torch.tensor([0.6, 0.3, -2.0, 0.1], dtype=torch.float64)
    s = (weights.sparsemax(z) > 0).double()
    want = torch.diag(s) - torch.outer(s, s) / s.sum()
    torch.testing.assert_close(torch.autograd.functional.jacobian(weights.sparsemax, z), want)


def test_the_derivative_by_alpha():
    """By finite differences at (1.5, [1, 0]): 0.2485 (entmax 1.3 agrees)."""
    module = weights.LearntEntmax(alpha=1.5).double()
    p = module(torch.tensor([1.0, 0.0], dtype=torch.float64))
    (slope,) = torch.autograd.grad(p[0], module.a)
    # alpha = 1 + sigmoid(a): dalpha/da = 1/4 at 1.5
    assert float(slope) * 4 == pytest.approx(0.2485, abs=1e-4)


def test_the_gradient_of_softpick():
    z = rows(5, 1)[0].requires_grad_()
    jacobian = torch.autograd.functional.jacobian(lambda z: weights.softpick(z, eps=0.0), z)
    z = z.detach()
    total = torch.expm1(z).abs().sum()
    p, e = weights.softpick(z, eps=0.0), z.exp()
    want = torch.diag((z > 0) * e) - torch.outer(p, torch.sign(torch.expm1(z)) * e)
    torch.testing.assert_close(jacobian, want / total)
    assert (weights.softpick(rows()).sum(-1) <= 1).all()


def test_stablemax_has_slope_one_at_zero_and_a_loss_that_does_not_vanish():
    z = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    # p_0 = s(z_0)/(s(z_0) + 1): slope s'(0)/4 from both sides
    for side in (1e-9, -1e-9):
        w = weights.stablemax(z + torch.tensor([side, 0.0]))
        assert float(torch.autograd.grad(w[0], z)[0][0]) == pytest.approx(0.25, abs=1e-6)
    far = torch.tensor([1e5, -1e5])
    assert -weights.stablemax(far.double())[0].log() > 0
    assert F.cross_entropy(far[None], torch.tensor([0])) == 0


def test_ssmax_counts_what_is_kept():
    z, s = rows(6, 6), 0.7
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    got = weights.ssmax(z, -1, causal, s)
    for i in range(1, 6):
        torch.testing.assert_close(
            got[i, : i + 1], (s * math.log(i + 1) * z[i, : i + 1]).softmax(-1)
        )
    top = [
        float(weights.ssmax(F.pad(torch.ones(1), (0, n - 1)), s=2.0)[0]) for n in (10, 1000, 10**5)
    ]
    assert top == sorted(top)
    assert top[-1] > 0.9999


def test_clipped_is_zero_below_its_threshold():
    least = 0.03 / 1.03
    assert least == pytest.approx(0.029126, abs=1e-6)
    p = torch.tensor([least * 0.999, least * 1.001], dtype=torch.float64)
    z = torch.cat([p, 1 - p.sum()[None]]).log()
    got = weights.clipped(z)
    assert got[0] == 0
    assert got[1] > 0


def test_self_adjust_keeps_a_gradient_at_one_hot():
    z = torch.tensor([60.0, 0.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(weights.self_adjust(z, normalised=False)[0], z)[0][0] > 0.9
    assert torch.autograd.grad(weights.softmax(z)[0], z)[0][0] < 1e-20
    coefficient = weights.self_adjust(rows()) / weights.softmax(rows())
    assert coefficient.min() >= 0
    positive = rows().amax(-1) >= 0
    torch.testing.assert_close(
        coefficient.amax(-1)[positive], torch.ones(int(positive.sum())).double()
    )


def entropy(p: Tensor) -> Tensor:
    return torch.special.entr(p).sum(-1)


def test_adaptive_temperature():
    z = rows(200, 300) * torch.linspace(0.05, 8, 300, dtype=torch.float64)[:, None]
    before, after = torch.softmax(z, -1), weights.adaptive_temperature(z)
    H = entropy(before)
    assert (entropy(after) <= H + 1e-12).all()
    assert (H <= 0.5).any()
    torch.testing.assert_close(after[H <= 0.5], before[H <= 0.5])
    # beta at entropy 2: the polynomial by hand
    c = -0.037 * 16 + 0.481 * 8 - 2.3 * 4 + 4.917 * 2 - 1.791
    assert c == pytest.approx(2.099, abs=1e-3)
    scale = torch.tensor(1.0, dtype=torch.float64)
    row = torch.linspace(-3, 3, 12, dtype=torch.float64)
    low, high = 0.01, 20.0
    for _ in range(80):
        scale = (low + high) / 2
        low, high = (scale, high) if entropy(torch.softmax(scale * row, -1)) > 2 else (low, scale)
    torch.testing.assert_close(
        weights.adaptive_temperature(scale * row),
        torch.softmax(c * scale * row, -1),
        rtol=1e-6,
        atol=0,
    )
    flat = 0.1 * rows(2000, 3)  # entropy above 5.95: nothing is sharpened
    assert (entropy(torch.softmax(flat, -1)) > 5.95).all()
    torch.testing.assert_close(weights.adaptive_temperature(flat), torch.softmax(flat, -1))


@pytest.mark.parametrize("n", [3, 50])
def test_weights_disperse(n):
    """Scores in [m, M] imply weights of at most e^(M - m) / n (arXiv 2410.01104)."""
    z = 4 * torch.rand(200, n, dtype=torch.float64) - 1
    assert torch.softmax(z, -1).max() <= math.exp(4) / n


def test_gumbel_draws_from_softmax():
    torch.manual_seed(0)
    pi = torch.tensor([0.5, 0.3, 0.2])
    draws = weights.gumbel(pi.log().expand(40_000, 3), hard=True)
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(draws.mean(0), pi, rtol=0, atol=0.01)  # four standard deviations
    assert weights.gumbel(pi.log(), tau=1e-3).max() > 0.999
    torch.testing.assert_close(
        weights.gumbel(pi.log(), tau=1e5), torch.full((3,), 1 / 3), rtol=1e-3, atol=0
    )
    z = pi.log().requires_grad_()
    slopes = []
    for hard in (True, False):
        torch.manual_seed(5)
        slopes += torch.autograd.grad((weights.gumbel(z, hard=hard) * pi).sum(), z)
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("n", "least", "want"), [(100, 1.0, (1.84, 1.97)), (10, 1.5, (2.0447, 2.0390))]
)
def test_era_bounds_the_entropy(n, least, want, exact):
    z = torch.cat([rows(n), 100 * rows(n), torch.zeros(1, n, dtype=torch.float64)])
    one_hot = torch.zeros(1, n, dtype=torch.float64)
    one_hot[0, 0] = 1e4
    H = entropy(weights.era(torch.cat([z, one_hot]), entropy=least, exact=exact))
    assert (least <= H).all()
    assert float(H[-1]) == pytest.approx(want[0 if exact else 1], abs=6e-3)
    p = weights.era(z, entropy=least, exact=exact)
    order = z.argsort(-1)
    assert (p.gather(-1, order).diff(dim=-1) >= -1e-12).all()


def test_the_lambert_function_of_era_is_exact():
    from scipy.special import lambertw

    z = rows(10, 20)
    C, most = math.exp(0.5), math.log(4) / 4
    A = (most - C / 10) / 0.9
    h = A * torch.softmax(z, -1) + (C - A) / 10
    torch.testing.assert_close(h.sum(-1), torch.full((20,), C, dtype=torch.float64))
    W = torch.from_numpy(lambertw(-h.numpy(), -1).real)
    torch.testing.assert_close(weights.era(z, entropy=1.5), torch.softmax(W, -1))


def test_taylor_is_not_monotone_below_minus_one():
    assert weights.taylor(torch.tensor([-3.0, -1.0])).argmax() == 0
    assert (weights.taylor(rows()) > 0).all()


def test_normalised_rows():
    w = weights.normalised(rows())
    torch.testing.assert_close(w.mean(-1), torch.zeros(50).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(w.var(-1, correction=0), torch.ones(50).double())
    assert (w < 0).any()


def test_relu_does_not_see_duplicates():
    z, v = rows(5), rows(5)
    twice = weights.relu(torch.cat([z, z], -1)) * torch.cat([v, v], -1)
    torch.testing.assert_close((weights.relu(z) * v).sum(-1), twice.sum(-1))


def test_relu_as_a_memory_and_as_a_classifier():
    """A feed-forward net is a look-up with keys W1^T and values W2; argmax survives rectifying."""
    x, W1, W2 = rows(4, 3), rows(6, 4), rows(2, 6)
    torch.testing.assert_close(torch.relu(x @ W1) @ W2, weights.rela(x @ W1) @ W2)
    some = (rows() > 0).any(-1)
    assert (weights.rela(rows()[some]).argmax(-1) == rows()[some].argmax(-1)).all()


def test_keys_of_sigmoid_do_not_compete():
    z = rows()
    other = z.clone()
    other[:, 0] += 3
    torch.testing.assert_close(weights.sigmoid(z)[:, 1:], weights.sigmoid(other)[:, 1:])


def test_rank_weights_do_not_see_increasing_functions():
    z = rows()
    torch.testing.assert_close(weights.rank(z.exp()), weights.rank(z))
    torch.testing.assert_close(weights.rank(z.pow(3) * 1e3 + 7), weights.rank(z))
    from scipy.stats import rankdata

    z = z.round()
    want = torch.from_numpy(rankdata(z.numpy(), axis=-1)) - 0.5
    got = weights.row_rank(z, torch.ones_like(z, dtype=torch.bool))
    torch.testing.assert_close(got, want / 7)


def test_a_rank_in_context_undoes_what_each_class_did():
    """Logits that drifted by an increasing function per class, read in their own context."""
    z = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    drifted = torch.stack([2 * z[:, 0] + 1, z[:, 1].exp(), z[:, 2].pow(3)], 1)
    plain, moved = weights.ContextRank(3), weights.ContextRank(3)
    plain(z), moved(drifted)
    a, b = plain.eval()(z), moved.eval()(drifted)
    assert (a - b).abs().mean() < 0.03
    assert (torch.softmax(z, -1) - torch.softmax(drifted, -1)).abs().mean() > 0.1
    with pytest.raises(RuntimeError):
        weights.ContextRank(3).eval()(z)


@pytest.mark.parametrize("q", [0.0, 1.0, 5.0])
def test_sdm_rises_with_similarity_and_with_distance(q):
    top = [float(weights.sdm(torch.tensor([1.0, 0.0]), q=q, d=d)[0]) for d in (0.0, 0.5, 1.0)]
    assert top == sorted(top)
    assert top[0] == 0.5
    assert weights.sdm(torch.tensor([1.0, 0.0]), q=q + 1)[0] > top[-1]


def test_a_neighbourhood_counts_up_to_the_first_that_differs():
    train = torch.tensor([[0.0], [1.0], [2.0], [3.0], [50.0]])
    labels = torch.tensor([0, 0, 1, 0, 1])
    q, d = weights.neighbourhood(
        torch.tensor([[0.1], [0.1], [100.0]]), train, labels, labels, torch.tensor([0, 1, 1])
    )
    assert q.flatten().tolist() == [2, 0, 1]
    assert d.flatten().tolist() == [1.0, 1.0, 0.0]
    wrong = labels.clone()
    wrong[1] = 1  # the second neighbour was not predicted rightly
    q, _ = weights.neighbourhood(torch.tensor([[0.1]]), train, labels, wrong, torch.tensor([0]))
    assert q.item() == 1


@pytest.mark.parametrize("tau", [math.e, 2.72, 4.0, 100.0])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_era_at_the_ends_of_its_range(tau, size):
    """W_{-1} by scipy: where shares vanish it is -inf, and where it branches off its slope is."""
    special = pytest.importorskip("scipy.special")
    z = size * torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    most = math.log(tau) / tau
    for dtype, slack in ((torch.float32, 1e-4), (torch.float64, 1e-7)):
        for entropy in (1 + math.log(most), 1 + math.log(10 * most)):
            scores = z.to(dtype).requires_grad_()
            got = weights.era(scores, entropy=entropy, tau=tau)
            C = math.exp(entropy - 1)
            A = max((most - C / 10) / 0.9, 0.0)
            h = A * torch.softmax(scores.detach().double(), -1) + (C - A) / 10
            w = special.lambertw(-h.clamp(1e-300, 1 / math.e).numpy(), -1).real
            want = torch.from_numpy(w).nan_to_num(-1.0).softmax(-1)
            torch.testing.assert_close(got.double(), want, rtol=0, atol=slack)
            (slope,) = torch.autograd.grad((got * torch.arange(10)).sum(), scores)
            assert slope.isfinite().all()
