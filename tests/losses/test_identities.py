"""Losses against their definitions, limits and each other, computed another way in float64."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import log_softmax, logsumexp, softmax
from torch import tensor
from torch.nn import functional as F

from qact import losses
from qact.losses.margins import sphereface_psi

N, C = 6, 5


@pytest.fixture
def case():
    return 3 * torch.randn(N, C, dtype=torch.float64), torch.randint(C, (N,))


def rows(function, z, y, **options):
    return function(z, y, reduction="none", **options)


def loop(z, y, definition):
    """A definition of one row, in numpy."""
    found = [definition(row, k) for row, k in zip(z.numpy(), y.tolist(), strict=True)]
    return torch.from_numpy(np.array(found))


def p_of(z, y):
    return softmax(z)[y]


DEFINITIONS = {
    "aldr_kl": lambda z, y: adaptive(z - z[y]),
    "comp_sum": lambda z, y: math.log1p(sum(np.exp(z - z[y])) - 1),
    "confidence_penalty": lambda z, y: (
        -log_softmax(z)[y] + 0.1 * (softmax(z) * log_softmax(z)).sum()
    ),
    "decoupled_softmax": lambda z, y: -log_softmax(z)[y],
    "dual_focal": lambda z, y: (
        -((1 - p_of(z, y) + max([p for p in softmax(z) if p < p_of(z, y)], default=0)) ** 5)
        * log_softmax(z)[y]
    ),
    "entmax": lambda z, y: sparse(z, y, 1.5),
    "focal": lambda z, y: -((1 - p_of(z, y)) ** 2) * log_softmax(z)[y],
    "generalized_cross_entropy": lambda z, y: (1 - p_of(z, y) ** 0.7) / 0.7,
    "gumbel": lambda z, y: (
        -sum(np.log(np.where(np.arange(C) == y, g, 1 - g)) for g in [gumbel_cdf(z)]).sum()
    ),
    "label_smoothing": lambda z, y: -log_softmax(z)[y] + 0.1 * (z[y] - z.mean()),
    "ldr_kl": lambda z, y: logsumexp(z - z[y]) - math.log(C),
    "logit_norm": lambda z, y: -log_softmax(z / (0.04 * np.linalg.norm(z)))[y],
    "margin_smoothing": lambda z, y: (
        -log_softmax(z)[y] + 0.1 * np.maximum(0, z.max() - z - 10).mean()
    ),
    "maxsup": lambda z, y: -log_softmax(z)[y] + 0.1 * (z.max() - z.mean()),
    "mean_absolute_error": lambda z, y: 1 - p_of(z, y),
    "soft_top_k": lambda z, y: soft_top(z, 1, y),
    "sparsemax": lambda z, y: sparse(z, y, 2.0),
    "squared_hinge": lambda z, y: (
        np.maximum(0, 1 - np.where(np.arange(C) == y, 1, -1) * z) ** 2
    ).sum(),
    "z_loss": lambda z, y: math.log1p(math.exp(-(z[y] - z.mean()) / z.std())),
}


def sparse(z, y, alpha):
    """Entmax by bisection; its loss as the integral says it."""
    part = lambda t: np.maximum((alpha - 1) * z - t, 0) ** (1 / (alpha - 1))  # noqa: E731
    p = part(brentq(lambda t: part(t).sum() - 1, (alpha - 1) * z.max() - 1, z.max(), xtol=1e-15))
    return p @ z - z[y] + (1 - (p**alpha).sum()) / (alpha * (alpha - 1))


def adaptive(d, alpha=2.0):
    """ALDR-KL of the gaps: the maximum over the temperature that is met first from 1 down."""
    spread = lambda s: (softmax(d / s) * np.log(C * softmax(d / s))).sum()  # noqa: E731
    rise = lambda s: s - 1 + spread(s) / (alpha * math.log(C))  # noqa: E731
    grid = np.linspace(1, 1 - 1 / alpha, 4001)
    first = next(i for i, s in enumerate(grid) if rise(s) <= 0)
    s = brentq(rise, grid[first], grid[max(0, first - 1)], xtol=1e-15)
    return s * (logsumexp(d / s) - math.log(C)) - alpha * math.log(C) / 2 * (s - 1) ** 2


def gumbel_cdf(z):
    return np.exp(-np.exp(-np.clip(z, -4, 10)))


def soft_top(z, k, y):
    t = brentq(lambda t: (1 / (1 + np.exp(-z - t))).sum() - k, -100, 100, xtol=1e-14)
    return math.log1p(math.exp(-z[y] - t))


@pytest.mark.parametrize("name", DEFINITIONS)
def test_equals_its_definition(name, case):
    z, y = case
    found = losses.create(name, reduction="none")(z, y)
    torch.testing.assert_close(found, loop(z, y, DEFINITIONS[name]), rtol=1e-9, atol=1e-12)


def test_every_loss_of_logits_has_a_definition():
    missing = set(losses.names(of="logits")) - set(DEFINITIONS)
    elsewhere = {"cross_entropy", "dca", "mdca", "mmce"}  # torch's, and of the batch: see below
    assert missing <= elsewhere


ENTROPY = {
    "comp_sum, tau 1": (losses.comp_sum_loss, {"tau": 1.0}, 0.0),
    "comp_sum, tau near 1": (losses.comp_sum_loss, {"tau": 1 + 1e-9}, 0.0),
    "generalised, q near 0": (losses.generalized_cross_entropy, {"q": 1e-9}, 0.0),
    "focal, gamma 0": (losses.focal_loss, {"gamma": 0.0}, 0.0),
    "dual focal, gamma 0": (losses.dual_focal_loss, {"gamma": 0.0}, 0.0),
    "label smoothing 0": (losses.label_smoothing_loss, {"smoothing": 0.0}, 0.0),
    "maxsup, alpha 0": (losses.maxsup_loss, {"alpha": 0.0}, 0.0),
    "margin smoothing, alpha 0": (losses.margin_smoothing_loss, {"alpha": 0.0}, 0.0),
    "margin smoothing, far margin": (losses.margin_smoothing_loss, {"margin": 1e6}, 0.0),
    "confidence penalty, beta 0": (losses.confidence_penalty_loss, {"beta": 0.0}, 0.0),
    "entmax, alpha 1": (losses.entmax_loss, {"alpha": 1.0}, 0.0),
    "ldr_kl, scale 1": (losses.ldr_kl_loss, {"scale": 1.0}, -math.log(C)),
    "decoupled, one positive": (losses.decoupled_softmax_loss, {}, 0.0),
    "mmce, strength 0": (losses.mmce_loss, {"strength": 0.0}, 0.0),
    "dca, strength 0": (losses.dca_loss, {"strength": 0.0}, 0.0),
    "mdca, strength 0": (losses.mdca_loss, {"strength": 0.0}, 0.0),
}


@pytest.mark.parametrize("name", ENTROPY)
def test_is_cross_entropy_at_one_parameter(name, case):
    z, y = case
    function, options, shift = ENTROPY[name]
    torch.testing.assert_close(
        rows(function, z, y, **options),
        F.cross_entropy(z, y, reduction="none") + shift,
        rtol=1e-6,
        atol=1e-7,
    )


@pytest.mark.parametrize("name", DEFINITIONS)
def test_long_rows_equal_the_definition_too(name, case, monkeypatch):
    monkeypatch.setattr("qact.losses.rows._SHORT", 0)
    test_equals_its_definition(name, case)


def test_comp_sum_at_its_other_values(case):
    z, y = case
    p = z.softmax(1).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(rows(losses.comp_sum_loss, z, y, tau=2.0), 1 - p)
    torch.testing.assert_close(rows(losses.comp_sum_loss, z, y, tau=1.4), (1 - p**0.4) / 0.4)
    torch.testing.assert_close(rows(losses.comp_sum_loss, z, y, tau=0.0), 1 / p - 1)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "ldr_kl", "maxsup", "logit_norm"])
def test_order_of_classes_does_not_matter(name, case):
    z, y = case
    order = torch.randperm(C)
    place = order.argsort()
    loss = losses.create(name)
    assert loss(z[:, order], place[y]).isclose(loss(z, y))


@pytest.mark.parametrize("name", sorted(set(losses.names(of="logits")) - {"gumbel"}))
def test_who_sees_a_shift_of_the_logits(name, case):
    z, y = case
    loss = losses.create(name)
    same = bool(loss(z + 2, y).isclose(loss(z, y), rtol=1e-10))
    assert same == (name not in ("squared_hinge", "logit_norm"))


@pytest.mark.parametrize("name", ["z_loss", "logit_norm"])
@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e5])
def test_who_does_not_see_the_scale_of_the_logits(name, factor, case):
    z, y = case
    loss = losses.create(name)
    assert loss(factor * z, y).isclose(loss(z, y), rtol=1e-10)


def test_z_loss_at_a_score_of_zero_is_log_two_over_a():
    z = tensor([[0.0, 1.0, -1.0]], dtype=torch.float64)
    assert losses.z_loss(z, tensor([0])).item() == pytest.approx(math.log(2))
    assert losses.z_loss(z, tensor([0]), a=4.0).item() == pytest.approx(math.log(2) / 4)


@pytest.mark.parametrize("level", [0.1, -7.3, 1e4])
def test_z_loss_of_equal_logits_is_that_of_score_zero(level):
    z = torch.full((1, 7), level, requires_grad=True)
    value = losses.z_loss(z, tensor([2]))
    value.backward()
    assert value.item() == pytest.approx(math.log(2))
    assert not z.grad.any()


def test_ldr_kl_between_its_limits(case):
    z, y = case
    own = z.gather(1, y[:, None])[:, 0]
    sharp = rows(losses.ldr_kl_loss, z, y, scale=1e-4)
    torch.testing.assert_close(sharp, z.amax(1) - own, rtol=0, atol=1e-3)
    flat = rows(losses.ldr_kl_loss, z, y, scale=1e7)
    torch.testing.assert_close(flat, z.mean(1) - own, rtol=1e-5, atol=1e-5)
    others = (z + 0.7).scatter(1, y[:, None], own[:, None]).amax(1)
    margin = rows(losses.ldr_kl_loss, z, y, scale=1e-4, margin=0.7)
    torch.testing.assert_close(margin, others - own, rtol=0, atol=1e-3)


def test_aldr_kl_is_a_maximum_over_temperatures(case):
    z, y = case
    stiff = rows(losses.aldr_kl_loss, z, y, alpha=1e9)
    torch.testing.assert_close(stiff, rows(losses.ldr_kl_loss, z, y), rtol=1e-6, atol=1e-6)
    found = rows(losses.aldr_kl_loss, z, y, scale=2.0, alpha=3.0, margin=0.5)
    near = [  # the objective at other temperatures, of which the loss is the largest
        rows(losses.ldr_kl_loss, z, y, scale=s, margin=0.5) - 3 * math.log(C) / 4 * (s - 2) ** 2
        for s in np.linspace(2 * (1 - 1 / 3), 2, 401)
    ]
    torch.testing.assert_close(found, torch.stack(near).amax(0), rtol=0, atol=1e-5)


def test_maxsup_is_label_smoothing_where_the_network_is_right(case):
    z, y = case
    right = z.argmax(1)
    one = rows(losses.maxsup_loss, z, right, alpha=0.3)
    two = rows(losses.label_smoothing_loss, z, right, smoothing=0.3)
    torch.testing.assert_close(one, two)
    flat = torch.full((1, C), 2.0, dtype=torch.float64)
    assert losses.maxsup_loss(flat, y[:1], alpha=5.0).item() == pytest.approx(math.log(C))
    assert (rows(losses.maxsup_loss, z, y) >= F.cross_entropy(z, y, reduction="none")).all()


def test_squared_hinge_is_zero_where_margins_are_kept():
    z, y = tensor([[1.0, -1.0, -3.0]]), tensor([0])
    assert losses.squared_hinge_loss(z, y) == 0
    assert losses.squared_hinge_loss(z / 2, y) == 0.5**2 + 0.5**2
    assert losses.squared_hinge_loss(z / 2, y, power=1) == 0.5 + 0.5


def test_squared_hinge_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    score = torch.randn(9, dtype=torch.float64)
    y = torch.randint(2, (9,))
    z = torch.stack([-score, score], 1)
    found = losses.squared_hinge_loss(z, y, power=1) / 2  # both columns ask the same
    assert found.item() == pytest.approx(metrics.hinge_loss(2 * y.numpy() - 1, score.numpy()))


@pytest.mark.parametrize("lead", [0.999, 1.0, 1.5])
def test_sparsemax_is_zero_from_a_margin_of_one_on(lead):
    z = tensor([[lead, 0.0, -1.0]], dtype=torch.float64)
    assert (losses.sparsemax_loss(z, tensor([0])) == 0) == (lead >= 1)
    assert (losses.entmax_loss(2 * z, tensor([0])) < 1e-15) == (lead >= 1)


def test_gumbel_at_zero_and_its_slope():
    z = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    value = losses.gumbel_loss(z, tensor([0]))
    value.backward()
    eta = (-value).exp().item()
    assert eta == pytest.approx(0.367879, abs=1e-6)
    assert -eta * z.grad.item() == pytest.approx(eta)  # eta' = eta e^-z


def test_decoupled_softmax_goes_to_zero_with_several_positives_high():
    hot = tensor([[1, 1, 0, 0]])
    z = tensor([[9.0, 7.0, -9.0, -9.0]], dtype=torch.float64, requires_grad=True)
    losses.decoupled_softmax_loss(z, hot).backward()
    assert losses.decoupled_softmax_loss(z, hot) < 1e-6
    # The other positive stands in no denominator: raising it is no loss for the first.
    z2 = tensor([[0.0, 50.0, 0.0, 0.0]], dtype=torch.float64)
    expected = (math.log(3) + F.softplus(tensor(math.log(2) - 50.0)).item()) / 2
    assert losses.decoupled_softmax_loss(z2, hot).item() == pytest.approx(expected)
    assert losses.decoupled_softmax_loss(z2, 0 * hot) == 0
    assert losses.decoupled_softmax_loss(z2, 0 * hot + 1) == 0


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("spread", [0.0, 1.0, 40.0])
def test_soft_top_k_sums_to_k(k, spread):
    x = spread * torch.randn(20, C, dtype=torch.float64)
    p = losses.soft_top_k(x, k, alpha=2.0)
    torch.testing.assert_close(p.sum(1), torch.full((20,), float(k), dtype=torch.float64))
    if spread == 40.0:
        assert (p.topk(k)[1].sort()[0] == x.topk(k)[1].sort()[0]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [0.0, 1e-3, 3.0, 20.0, 60.0, 100.0, 1e4, 1e30])
def test_soft_top_k_of_two_classes_is_the_logistic_of_half_their_gap(gap, dtype):
    """The sum near 1 has no digits left of what either misses; both dtypes were off by the gap."""
    z = tensor([[gap, 0.0], [gap, 0.0]], dtype=dtype).add_(7.0).requires_grad_()
    loss = losses.soft_top_k_loss(z, tensor([0, 1]), reduction="none")
    (grad,) = torch.autograd.grad(loss.sum(), z)
    half = (z[:, 0] - z[:, 1]).detach().double() / 2
    signs = tensor([-1.0, 1.0], dtype=torch.float64)
    eps = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(loss.double(), F.softplus(signs * half), rtol=eps, atol=1e-37)
    slope = signs * (signs * half).sigmoid() / 2
    torch.testing.assert_close(
        grad.double(), torch.stack([slope, -slope], 1), rtol=eps, atol=torch.finfo(dtype).tiny
    )


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("spread", [1.0, 20.0, 100.0, 1e4])
def test_soft_top_k_is_the_same_in_single_precision(k, spread):
    z = (spread * torch.randn(50, 7)).double()
    y = torch.randint(7, (50,))
    found = []
    for dtype in (torch.float64, torch.float32):
        x = z.to(dtype).requires_grad_()
        value = losses.soft_top_k_loss(x, y, k=k, reduction="none")
        (grad,) = torch.autograd.grad(value.sum(), x)
        found.append((value.double().detach(), grad.double()))
    (value, grad), (single, single_grad) = found
    torch.testing.assert_close(single, value, rtol=1e-5, atol=1e-6 * spread)
    torch.testing.assert_close(single_grad, grad, rtol=1e-3, atol=2e-7 * spread)


def test_soft_top_k_refuses_as_many_as_there_are():
    with pytest.raises(ValueError, match="k=5 must be less than the 5 classes"):
        losses.soft_top_k(torch.zeros(1, C), C)
    with pytest.raises(ValueError, match="k=5 must be less than the 5 classes"):
        losses.soft_top_k_loss(torch.zeros(1, C), tensor([0]), k=C)


def penalty(name, z, y):
    p = softmax(z.numpy(), axis=1)
    r, h = p.max(1), (p.argmax(1) == y.numpy()).astype(float)
    if name == "mmce":
        kernel = np.exp(-np.abs(r[:, None] - r) / 0.4)
        return 2 * math.sqrt((np.outer(h - r, h - r) * kernel).mean())
    if name == "dca":
        return abs(h.mean() - r.mean())
    return np.abs(p.mean(0) - np.bincount(y.numpy(), minlength=C) / N).mean()


@pytest.mark.parametrize("name", ["mmce", "dca", "mdca"])
def test_penalties_equal_their_definitions(name, case):
    z, y = case
    expected = F.cross_entropy(z, y).item() + penalty(name, z, y)
    assert losses.create(name)(z, y).item() == pytest.approx(expected, rel=1e-10)


# Cosines


@pytest.fixture
def cosines():
    return 2 * torch.rand(N, C, dtype=torch.float64) - 1, torch.randint(C, (N,))


PSI = {
    "cosface": (losses.cosface_loss, {"margin": 0.3}, lambda t: math.cos(t) - 0.3),
    "arcface": (
        losses.arcface_loss,
        {"margin": 0.4},
        lambda t: math.cos(t + 0.4) if t + 0.4 <= math.pi else math.cos(t) - 0.4 * math.sin(0.4),
    ),
    "normalised": (losses.normalised_softmax_loss, {}, math.cos),
    "sphereface": (
        losses.sphereface_loss,
        {"margin": 3},
        lambda t: (-1) ** int(3 * t / math.pi) * math.cos(3 * t) - 2 * int(3 * t / math.pi),
    ),
}


@pytest.mark.parametrize("name", PSI)
def test_losses_of_cosines_equal_their_definitions(name, cosines):
    c, y = cosines
    function, options, psi = PSI[name]

    def definition(row, k):
        scaled = row.copy()
        scaled[k] = psi(math.acos(row[k]))
        return -log_softmax(5 * scaled)[k]

    found = rows(function, c, y, scale=5.0, **options)
    torch.testing.assert_close(found, loop(c, y, definition), rtol=1e-9, atol=1e-12)
    c.requires_grad_()
    assert torch.autograd.gradcheck(lambda c: function(c, y, scale=5.0, **options), c, atol=1e-6)


@pytest.mark.parametrize("name", ["cosface", "arcface", "sphereface"])
def test_without_margin_it_is_the_normalised_softmax(name, cosines):
    c, y = cosines
    margin = 1 if name == "sphereface" else 0.0
    function = PSI[name][0]
    plain = losses.normalised_softmax_loss(c, y, scale=7.0)
    assert function(c, y, margin=margin, scale=7.0).isclose(plain)


def test_equal_cosines_cost_the_logarithm_of_the_classes():
    c = torch.full((3, C), 0.4, dtype=torch.float64)
    value = losses.normalised_softmax_loss(c, tensor([0, 1, 2]), scale=64.0)
    assert value.item() == pytest.approx(math.log(C))


@pytest.mark.parametrize("function", [losses.arcface_loss, losses.sphereface_loss])
def test_the_poles_have_finite_slopes(function):
    c = tensor([[1.0, -1.0], [-1.0, 1.0]], requires_grad=True)
    function(c, tensor([0, 0])).backward()
    assert c.grad.isfinite().all()


@pytest.mark.parametrize("name", PSI)
def test_a_sample_is_drawn_to_its_class_from_wherever_it_stands(name):
    own = torch.linspace(-0.999, 0.999, 201, dtype=torch.float64)
    c = torch.stack([own, torch.full_like(own, 0.3)], 1).requires_grad_()
    function, options, _ = PSI[name]
    function(c, torch.zeros(201, dtype=torch.int64), scale=1.0, **options).backward()
    assert (c.grad[:, 0] < 0).all()


def test_psi_of_sphereface_falls_and_is_continuous():
    c = torch.linspace(1, -1, 2001, dtype=torch.float64)
    value, slope = sphereface_psi(c, 4)
    assert (value.diff() < 1e-12).all()
    assert value.diff().abs().max() < 0.03
    assert value[[0, -1]].tolist() == pytest.approx([1, -7])
    assert slope[[0, -1]].tolist() == pytest.approx([16, 16])


def test_sphereface2_without_margin_is_binary_logistic(cosines):
    a, y = cosines
    sign = 2 * F.one_hot(y, C) - 1
    expected = 0.5 * F.softplus(-sign * a).sum(1)
    found = rows(losses.sphereface2_loss, a, y, margin=0.0, balance=0.5, scale=1.0)
    torch.testing.assert_close(found, expected)
    a.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: losses.sphereface2_loss(a, y, scale=3.0), a)


def test_wrapped_cauchy_is_a_density_that_grows_with_the_cosine():
    theta = torch.linspace(0, 2 * math.pi, 4001, dtype=torch.float64)
    r = torch.tensor(0.6, dtype=torch.float64)
    density = losses.wrapped_cauchy(theta.cos(), r)
    assert torch.trapezoid(density, theta).item() == pytest.approx(1, abs=1e-9)
    flat = losses.wrapped_cauchy(theta.cos(), 0 * r)
    torch.testing.assert_close(flat, torch.full_like(flat, 1 / (2 * math.pi)))
    assert (losses.wrapped_cauchy(theta[:2000].cos(), r).diff() < 0).all()


# Values


@pytest.mark.parametrize("kappa", [0.5, 1.0, 3.0])
def test_quantile_huber_at_the_median_is_half_of_hubers(kappa):
    x, t = torch.randn(50, dtype=torch.float64) * 3, torch.randn(50, dtype=torch.float64)
    found = losses.quantile_huber_loss(x, t, levels=0.5, kappa=kappa)
    assert found.item() == pytest.approx(F.huber_loss(x, t, delta=kappa).item() / 2 / kappa)
    x.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: losses.quantile_huber_loss(x, t, levels=0.9, kappa=kappa), x
    )


def test_quantile_huber_is_least_at_the_quantile():
    metrics = pytest.importorskip("sklearn.metrics")
    sample = torch.randn(41, dtype=torch.float64)
    grid = sample.sort()[0]
    cost = losses.quantile_huber_loss(
        grid[:, None], sample, levels=0.7, kappa=0.0, reduction="none"
    ).mean(1)
    assert cost.argmin() == math.ceil(0.7 * 41) - 1
    pinball = metrics.mean_pinball_loss(sample, 0 * sample, alpha=0.7)
    found = losses.quantile_huber_loss(0 * sample, sample, levels=0.7, kappa=0.0)
    assert found.item() == pytest.approx(pinball)
    with pytest.raises(ValueError, match=r"levels=1\.0"):
        losses.quantile_huber_loss(sample, sample, levels=1.0)


def test_feasible_learning_keeps_every_sample_below_the_bound():
    x = torch.linspace(-1, 1, 8, dtype=torch.float64)
    t, a = 2 * x + 0.1 * torch.randn_like(x), torch.zeros(1, dtype=torch.float64)
    a.requires_grad_()
    hold = losses.FeasibleLearning(8, bound=0.2, rate=0.5)
    for _ in range(300):
        loss = hold((a * x - t).square(), torch.arange(8))
        (slope,) = torch.autograd.grad(loss, a)
        a.data -= 0.2 * slope
    final = (a * x - t).square()
    assert (final <= 0.2 + 1e-3).all()
    assert (hold.multipliers[final < 0.1] == 0).all()  # those of satisfied samples decayed


def test_feasible_learning_with_held_multipliers_is_plain_training():
    hold, values = losses.FeasibleLearning(5, rate=0.0), torch.rand(5)
    assert hold(values, torch.arange(5)) == values.mean()
    assert hold.eval()(values, torch.arange(5)) == values.mean()
    resilient = losses.FeasibleLearning(2, bound=1.0, rate=0.1, slack=0.5)
    resilient(tensor([3.0, 0.0]), tensor([0, 1]))
    expected = [1 + 0.1 * (3 - 1 - 0.5), 1 + 0.1 * (0 - 1 - 0.5)]
    assert resilient.multipliers.tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"got \(\) and \(5,\)"):
        hold(values.mean(), torch.arange(5))


def test_norm_loss_drives_filters_to_length_one():
    layer = torch.nn.Linear(3, 4).double()
    weight = layer.weight
    found = losses.norm_loss(weight)
    (slope,) = torch.autograd.grad(found, weight)
    length = weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(slope, -2 * (1 - length) * weight / length)
    assert losses.NormLoss(strength=0.5)(layer).isclose(0.5 * found)
    for _ in range(60):
        weight.data -= 0.3 * torch.autograd.grad(losses.norm_loss(weight), weight)[0]
    assert losses.norm_loss(weight) < 1e-12
    with pytest.raises(ValueError, match="ReLU has no weights"):
        losses.NormLoss()(torch.nn.ReLU())
