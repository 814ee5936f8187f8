"""Closed forms: each score at a point where its value is known, or on a case that it reduces to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from qact import scores
from qact.context import Context
from qact.scores import Outputs
from qact.scores.coverage import NAC
from qact.scores.features import similarity
from qact.scores.pooled import pooled_quantile, quantile
from qact.scores.shaping import scale_factor


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Head(nn.Module):
    """Features are the inputs."""

    def __init__(self, width, classes, seed=0):
        super().__init__()
        self.head = nn.Linear(width, classes).double()
        with torch.no_grad():
            self.head.weight.copy_(draw(classes, width, seed=seed))
            self.head.bias.copy_(draw(classes, seed=seed + 1))

    def forward(self, x):
        return self.head(x)


def data(model, count=400, seed=5):
    a = draw(count, model.head.in_features, seed=seed).abs()
    return Outputs(model(a).detach(), a, torch.arange(count) % model.head.out_features)


def test_logits_of_zero():
    zero = Outputs(torch.zeros(1, 10))
    assert scores.MSP().score(zero).item() == pytest.approx(0.9)
    assert scores.Energy().score(zero).item() == pytest.approx(-2.302585)
    assert scores.Evidential().score(zero).item() == 1  # no evidence: vacuity 1
    assert scores.LabelNonUniformity().score(zero).item() == pytest.approx(0, abs=1e-7)
    one_hot = Outputs(torch.tensor([[1e4] + [0.0] * 9]))
    assert scores.LabelNonUniformity().score(one_hot).item() == pytest.approx(-0.9)
    assert scores.MSP().score(one_hot).item() == 0
    assert scores.GEN().score(one_hot).item() == 0


def test_energy_moves_with_the_logits():
    f = draw(20, 7)
    for T in (1.0, 3.0):
        score = scores.Energy(T)
        moved = score.score(Outputs(f + 2.5)) - score.score(Outputs(f))
        torch.testing.assert_close(moved, torch.full((20,), -2.5, dtype=torch.float64))


def test_msp_where_a_network_is_sure():
    gaps = torch.tensor([[40.0, 0.0], [60.0, 0.0]])
    found = scores.MSP().score(Outputs(gaps))
    np.testing.assert_allclose(found.numpy(), [math.exp(-40), math.exp(-60)], rtol=1e-5)
    gen = scores.GEN(gamma=0.5).score(Outputs(gaps))  # sqrt(p q) of both classes
    np.testing.assert_allclose(gen.numpy(), 2 * np.exp([-20, -30]), rtol=1e-5)


def test_gen_of_sure_networks_is_that_of_float64():
    # Half of the probabilities lie below 1e-7, where pytorch-ood clamps them.
    f = 12 * torch.randn(500, 10, generator=torch.Generator().manual_seed(0))
    p = f.double().softmax(1)
    assert (p < 1e-7).double().mean() > 0.4
    rest = torch.stack(
        [p[:, [j for j in range(10) if j != k]].sum(1) for k in range(10)], 1
    )  # 1 - p
    right = (p * rest).pow(0.1).sum(1)
    torch.testing.assert_close(scores.GEN().score(Outputs(f)).double(), right, rtol=1e-5, atol=0)


def test_mahalanobis_is_affine_invariant_and_euclidean_where_the_covariance_is_one():
    model = Head(5, 3)
    fit = data(model)
    x = draw(30, 5, seed=9)
    A = draw(5, 5, seed=10) + 3 * torch.eye(5)
    moved = Outputs(fit.logits, fit.features @ A + 2, fit.labels)
    for name in ("mahalanobis", "relative_mahalanobis"):
        plain = scores.create(name).fit(model, fit).score(Outputs(x[:, :3], x))
        other = scores.create(name).fit(model, moved).score(Outputs(x[:, :3], x @ A + 2))
        torch.testing.assert_close(plain, other, rtol=1e-8, atol=1e-8)
    score = scores.Mahalanobis().fit(model, fit)
    means = torch.stack([fit.features[fit.labels == c].mean(0) for c in range(3)])
    assert score.score(Outputs(means, means)).abs().max() < 1e-20
    # By the inverse covariance, in numpy.
    S = sum(
        np.cov(fit.features[fit.labels == c].T, bias=True) * (fit.labels == c).sum().item()
        for c in range(3)
    ) / len(fit)
    gap = x.numpy()[:, None] - means.numpy()
    right = np.einsum("ncd,de,nce->nc", gap, np.linalg.inv(S), gap).min(1)
    np.testing.assert_allclose(score.score(Outputs(x[:, :3], x)), right, rtol=1e-9)


def test_mahalanobis_of_unit_features_knows_no_length():
    model = Head(5, 3)
    fit, x = data(model), draw(20, 5, seed=9)
    score = scores.Mahalanobis(unit=True).fit(model, fit)
    both = (score.score(Outputs(x[:, :3], c * x)) for c in (1, 7))
    torch.testing.assert_close(*both)


def test_vim_is_the_virtual_logit():
    model = Head(6, 3)
    fit = data(model)
    score = scores.ViM(dim=2).fit(model, fit)
    new = data(model, 20, seed=8)
    s = score.score(new)
    residual = ((new.features - score.origin) @ score.outside).norm(dim=1)
    virtual = torch.cat([score.alpha * residual[:, None], new.logits], 1).softmax(1)[:, 0]
    torch.testing.assert_close(virtual, s.sigmoid())  # e^l0 / (e^l0 + sum e^f)
    W, b = model.head.weight, model.head.bias
    torch.testing.assert_close(W @ score.origin, -b)
    with pytest.raises(ValueError, match="dim=6 must be below the 6 features"):
        scores.ViM(dim=6).fit(model, fit)


def test_scale_and_ash():
    a = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert scale_factor(a, 0.5).item() == pytest.approx(4.1727339, rel=1e-6)
    assert (scale_factor(draw(50, 30).abs(), 0.8) >= math.e).all()  # r >= 1
    model = Head(4, 3).float()
    out = Outputs(model(a), a)
    energy = lambda f: -model(f).logsumexp(1)  # noqa: E731
    fit = Outputs(model(a.repeat(9, 1)), a.repeat(9, 1))
    s1 = scores.ASH(0.5, "s").fit(model, fit).score(out)
    torch.testing.assert_close(s1, energy(torch.tensor([[0.0, 0, 3, 4]]) * math.exp(10 / 7)))
    s2 = scores.ASH(0.5, "b").fit(model, fit).score(out)
    torch.testing.assert_close(s2, energy(torch.tensor([[0.0, 0, 5, 5]])))
    s3 = scores.ASH(0.0, "p").fit(model, fit).score(out)
    torch.testing.assert_close(s3, energy(a))


def test_vra_is_react_from_zero_on():
    vra = scores.VRA()
    vra._keep(alpha=torch.tensor(0.2), beta=torch.tensor(1.0))
    assert vra.rectify(torch.tensor([0.1, 0.5, 3.0])).tolist() == [0, 0.5, 1]
    vra.gamma = 0.25
    assert vra.rectify(torch.tensor([0.1, 0.5, 3.0])).tolist() == [0, 0.75, 1]
    model = Head(6, 3)
    fit, new = data(model), data(model, 30, seed=8)
    both = [scores.VRA(0, 0.9).fit(model, fit), scores.ReAct(0.9).fit(model, fit)]
    torch.testing.assert_close(*(score.score(new) for score in both))
    every = scores.ReAct(1.0).fit(model, fit)
    torch.testing.assert_close(every.score(fit), scores.Energy().score(fit))  # nothing is cut


def test_dice_without_pruning_is_the_energy():
    model = Head(6, 3)
    fit, new = data(model), data(model, 30, seed=8)
    half = scores.DICE(0.5).fit(model, fit)
    assert (half.weight != 0).sum() == 9
    kept = model.head.weight * fit.features.mean(0)
    assert kept[half.weight != 0].min() > kept[half.weight == 0].max()
    with torch.no_grad():  # none kept: the biases
        all_ = scores.DICE(1.0).fit(model, fit).score(new)
        torch.testing.assert_close(all_, -model.head.bias.logsumexp(0).expand(30))


def test_odin_is_msp_without_temperature_and_noise(model, loader, inside):
    x = inside.inputs[:50]
    plain = scores.ODIN(1.0, 0.0).fit(model, loader)
    torch.testing.assert_close(plain.score(x), scores.MSP().bind(model).score(x))
    moved = scores.ODIN(1.0, 1e-3).fit(model, loader)
    assert (moved.score(x) <= plain.score(x) + 1e-6).all()  # to first order it grows surer


def test_adascale_with_one_level_is_scale(model, loader, inside):
    ada = scores.AdaSCALE(0.85, 0.85).fit(model, loader)
    scale = scores.SCALE(0.85).fit(model, loader)
    torch.testing.assert_close(ada.score(inside), scale.score(inside))
    wide = scores.AdaSCALE(0.1, 0.9).fit(model, loader)
    assert (wide.score(inside) != scale.score(inside)).any()
    first = inside.first(256)
    ranks = wide.shift.rank(wide.moved(first)[:, None], grounded=False, smooth=False)
    assert ranks.mean().item() == pytest.approx(0.5, abs=0.1)  # F of what is like the fit


def test_nac_counts_bins():
    model = Head(4, 3).float()
    a = draw(500, 4).abs().float()
    fit = Outputs(model(a).detach(), a)
    score = NAC(alpha=2.0, bins=20, full=0.02).fit(model, fit)
    p = fit.logits.softmax(1)
    z = fit.features.clone().requires_grad_()
    loss = -model(z).log_softmax(1).mean(1).sum()  # KL(u || p) up to a constant
    v = fit.features * torch.autograd.grad(loss, z)[0]
    torch.testing.assert_close(v, score._states(fit), rtol=1e-4, atol=1e-5)
    assert p.shape == (500, 3)
    edges = score.edges().numpy()
    counts = np.stack(
        [np.bincount(np.searchsorted(edges, c, side="right"), minlength=20) for c in v.numpy().T]
    )
    right = (
        1
        - np.minimum(counts / 10, 1)[np.arange(4), np.searchsorted(edges, v.numpy(), side="right")]
    )
    exact = right.mean(1)
    assert (
        np.abs(score.score(fit).numpy() - exact).mean() < 0.02
    )  # within bins the grid interpolates
    assert ((score.coverage >= 0) & (score.coverage <= 1)).all()


def test_conjnorm():
    score = scores.ConjNorm(2.0)
    a, mu = draw(20, 5), draw(3, 5, seed=1)
    torch.testing.assert_close(score.divergence(a, mu), torch.cdist(a, mu).square() / 2)
    for p in (1.5, 3.0):
        score = scores.ConjNorm(p)
        m = mu.clone().requires_grad_()
        grad = torch.autograd.grad((m.norm(p=p, dim=1).square() / 2).sum(), m)[0]
        phi = lambda z, p=p: z.norm(p=p, dim=-1).square() / 2  # noqa: E731
        right = phi(a)[:, None] - phi(mu) - ((a[:, None] - mu) * grad).sum(2)
        torch.testing.assert_close(score.divergence(a, mu), right)
        assert score.divergence(mu, mu).diagonal().abs().max() < 1e-12


def test_rel_u():
    f = draw(200, 4)
    y = f.argmax(1)
    right = scores.RelU().fit(Head(4, 4), Outputs(f, f, y))  # nothing is wrong: Gini
    p = f.softmax(1)
    torch.testing.assert_close(right.score(Outputs(f)), 1 - p.square().sum(1))
    assert right.score(Outputs(torch.tensor([[1e4, 0.0, 0, 0]]).double())).item() == 0
    y = torch.where(torch.arange(200) % 3 == 0, (y + 1) % 4, y)
    some = scores.RelU(0.7).fit(Head(4, 4), Outputs(f, f, y))
    wrong = f.argmax(1) != y
    second = lambda q: torch.einsum("ni,nj->ij", q, q) / len(q)  # noqa: E731
    D = (0.7 * second(p[wrong]) - 0.3 * second(p[~wrong])).clamp(min=0)
    D -= torch.diag(D.diag())
    torch.testing.assert_close(some.distance, D / D.norm())


def test_t_similarity():
    one_hot = torch.eye(3)[[0, 0, 0, 0]][:, None]
    assert similarity(one_hot).item() == 1
    assert similarity(torch.full((5, 1, 4), 0.25)).item() == pytest.approx(0.25)
    p = draw(4, 10, 3).softmax(2)
    pairs = [(p[m] * p[k]).sum(1) for m in range(4) for k in range(4) if m != k]
    torch.testing.assert_close(similarity(p), torch.stack(pairs).mean(0))


def test_sdm():
    score = scores.SDM(k=3)
    bank = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    # The third is predicted wrongly: it ends a row of neighbours.
    logits = torch.tensor([[1.0, 0], [1.0, 0], [1.0, 0], [0, 1.0]])
    score.fit(Head(1, 2).float(), Outputs(logits, bank, torch.tensor([0, 0, 1, 1])))
    # Nearest 0.1 away, and all distances within are >= 1: d = 1, q = 2.
    found = score.score(Outputs(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.1]])))
    assert found.item() == pytest.approx(1 - 4 / (4 + 1), rel=1e-5)  # (2 + q)^z
    far = score.score(Outputs(torch.tensor([[9.0, 0.0]]), torch.tensor([[99.0]])))
    assert far.item() == pytest.approx(0.5)  # d = 0: uniform


def test_centroid_leaves_no_wrong_sample_inside(model, fitted):
    score = scores.CentroidDistance().fit(model, fitted)
    predicted = fitted.logits.argmax(1)
    wrong = predicted != fitted.labels
    assert wrong.any()
    assert (score.score(fitted)[wrong] >= score.safety[predicted[wrong]]).all()
    torch.testing.assert_close(score.centroids.sum(1), torch.ones(3))


def test_tempnet():
    f = 5 * draw(50, 6)
    found = scores.TempNet(rho=0.4).temperature(f)
    p = (f / found[:, None]).softmax(1)
    entropy = -(p * p.log()).sum(1)
    torch.testing.assert_close(entropy, torch.full((50,), math.log(6) - 0.4).double())
    torch.testing.assert_close(scores.TempNet(rho=0.4).temperature(3 * f), 3 * found)
    taus = [scores.TempNet(rho=r).temperature(f).mean().item() for r in (0.05, 0.3, 1.0, 1.7)]
    assert taus == sorted(taus, reverse=True)
    floor = scores.TempNet(rho=2.5, low=0.1).temperature(f)
    torch.testing.assert_close(floor, torch.full((50,), 0.1).double(), rtol=1e-5, atol=0)

    def loss(tau, row):
        y = row.argmax()[None]
        return tau * cross_entropy(row[None] / tau, y) + (0.4 - math.log(6)) * tau

    best = found[0]
    assert all(loss(best, f[0]) <= loss(best * c, f[0]) for c in (0.9, 0.99, 1.01, 1.1))


def test_stable_propagation_is_exact_on_linear_networks():
    model = Head(4, 3)
    x = draw(6, 4, seed=3)
    fit = Outputs(model(x).detach(), x, inputs=x)
    for law in ("normal", "cauchy"):
        found = scores.StablePropagation(0.3, law).fit(model, fit).score(x)
        noise = torch.randn if law == "normal" else None
        generator = torch.Generator().manual_seed(0)
        if noise:
            e = torch.randn(200_000, 4, generator=generator, dtype=torch.float64)
        else:
            u = torch.rand(200_000, 4, generator=generator, dtype=torch.float64)
            e = (torch.pi * (u - 0.5)).tan()
        for i in range(2):
            f = model(x[i] + 0.3 * e).detach()
            y = model(x[i]).argmax()
            beaten = (f > f[:, [y]]).double().mean(0).max()
            assert found[i].item() == pytest.approx(beaten.item(), abs=0.005)


def test_kl_matching_is_zero_at_a_typical_softmax(model, fitted):
    score = scores.KLMatching().fit(model, fitted)
    found = score.score(Outputs(score.typical.log()))
    assert found.abs().max() < 1e-6
    p, q = fitted.logits[:5].softmax(1), score.typical
    right = (p[:, None] * (p[:, None] / q).log()).sum(2).amin(1)
    torch.testing.assert_close(score.score(fitted.first(5)), right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_quantiles_of_all_channels_together(level):
    z = draw(500, 3).exp() * torch.tensor([1.0, 4.0, 0.2])
    assert quantile(z, level).item() == pytest.approx(np.quantile(z.numpy(), level), rel=1e-12)
    context = Context(3).add(z.float())
    exact, read = quantile(z, level), pooled_quantile(context, level)
    # Two neighbours of the sorted values at most, and a bin of the widest channel.
    rank = (z <= read.double()).double().mean()
    assert abs(rank.item() - level) < 0.01 or abs(read - exact) < 0.01
