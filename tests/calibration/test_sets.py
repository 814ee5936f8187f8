"""Conformal sets by every score: by hand, conditional coverage, p-values, peers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from qact.calibration import (
    ConformalIntervals,
    SplitConformal,
    conformal_p_values,
    conformal_quantile,
    coverage,
    coverage_by,
    coverage_report,
    interval_coverage,
)
from qact.calibration.clusters import k_means
from qact.calibration.nonconformity import NONCONFORMITY, above

SCORES = tuple(NONCONFORMITY)


def case(n, seed=0, classes=6, hard=()):
    """Probabilities and labels; those of ``hard`` classes are wrong about themselves."""
    draw = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(n, classes, generator=draw, dtype=torch.float64)
    y = torch.multinomial(z.softmax(1), 1, generator=draw)[:, 0]
    for k in hard:
        z[y == k] = 2 * torch.randn(int((y == k).sum()), classes, generator=draw).double()
    return z.softmax(1), y


def test_scores_by_hand():
    p = torch.tensor([[0.1, 0.6, 0.3]], dtype=torch.float64)
    u = torch.tensor([[0.5]], dtype=torch.float64)
    right = {
        "threshold": [0.9, 0.4, 0.7],
        "adaptive": [0.95, 0.3, 0.75],
        "raps": [0.95 + 0.2, 0.3, 0.75 + 0.1],  # k0 = 1, lam = 0.1
        "saps": [0.6 + 1.5 * 0.1, 0.3, 0.6 + 0.5 * 0.1],
        "top_k": [2.5, 0.5, 1.5],
        "margin": [0.5, -0.3, 0.3],
    }
    for name, score in NONCONFORMITY.items():
        np.testing.assert_allclose(score(p, u, 0.1, 1).numpy()[0], right[name], atol=1e-12)
    rank, mass = above(torch.tensor([[0.25, 0.25, 0.5]]))
    assert rank.tolist() == [[1, 1, 0]]
    assert mass.tolist() == [[0.5, 0.5, 0]]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("by", [None, "class"])
def test_coverage_and_p_values(score, by):
    options = {"score": score, "by": by, "randomized": False}
    model = SplitConformal(0.1, **options).fit(*case(3000))
    probs, labels = case(3000, seed=1)
    sets = model.predict(probs)
    slack = 4 * math.sqrt(0.09 / 3000 + 0.09 / 3000)
    assert coverage(sets, labels).coverage > 0.9 - slack
    if score != "top_k":  # whole ranks: as many as reach the level, and not one less
        assert coverage(sets, labels).coverage < 0.9 + slack + 6 / 3000
    p = model.p_values(probs)
    assert torch.equal(p > 0.1 + 1e-12, sets)
    own = p.gather(1, labels[:, None])[:, 0]
    for t in (0.05, 0.3):  # valid: P(p <= t) <= t
        assert (own <= t).double().mean() < t + 4 * math.sqrt(t / 3000 + t / 3000)


def test_p_values_with_a_share_are_uniform():
    scores = torch.randint(5, (200,), generator=torch.Generator().manual_seed(0)).double()
    new = torch.randint(5, (4000,), generator=torch.Generator().manual_seed(1)).double()
    p = conformal_p_values(scores, new, generator=torch.Generator().manual_seed(2))
    for t in (0.1, 0.5, 0.9):
        assert (p <= t).double().mean().item() == pytest.approx(t, abs=0.08)
    assert conformal_p_values(torch.empty(0).double(), new[:2]).tolist() == [1, 1]
    w = torch.tensor([1.0, 0.5])
    assert conformal_p_values(torch.tensor([1.0, 2.0]), torch.tensor([1.5]), w).item() == 1.5 / 2.5


def test_every_class_is_covered_where_all_together_is_not_enough():
    data, new = case(6000, hard=(5,)), case(6000, seed=1, hard=(5,))
    marginal = SplitConformal(0.1).fit(*data)
    mondrian = SplitConformal(0.1, by="class").fit(*data)
    plain = coverage_report(marginal.predict(new[0]), new[1], 0.1)
    fair = coverage_report(mondrian.predict(new[0]), new[1], 0.1)
    assert plain.by_class[5].coverage < 0.8
    for one in fair.by_class.values():  # a bound of 0.87 was 2.2 sigma here
        assert one.coverage > 0.9 - 4 * math.sqrt(2 * 0.09 / one.count)
    assert fair.class_gap < 0.02 < plain.class_gap
    assert set(fair.by_size) <= set(range(7))
    assert sum(one.count for one in fair.by_size.values()) == 6000


def test_groups():
    probs, labels = case(4000)
    groups = torch.arange(4000) % 2 * 7
    flat = torch.where(groups[:, None] == 7, torch.full_like(probs, 1 / 6), probs)
    model = SplitConformal(0.1).fit(flat, labels, groups=groups)
    new, truth = case(2000, seed=2)
    found = model.predict(new, groups=torch.zeros(2000, dtype=torch.long))
    alone = SplitConformal(0.1).fit(flat[groups == 0], labels[groups == 0]).predict(new)
    assert torch.equal(found, alone)
    assert model.predict(new / new * (1 / 6), groups=torch.full((2000,), 7)).all()
    p = model.p_values(new, groups=torch.zeros(2000, dtype=torch.long))
    assert torch.equal(p > 0.1 + 1e-12, found)
    report = coverage_report(found, truth, 0.1, groups=torch.arange(2000) % 3)
    assert report.by_group == coverage_by(found, truth, torch.arange(2000) % 3)
    for bad in (None, torch.ones(2000, dtype=torch.long)):
        with pytest.raises(ValueError, match="groups"):
            model.predict(new, groups=bad)


def test_clusters_of_classes():
    """Twenty classes of two kinds: thresholds come in two, and cover both."""
    draw = torch.Generator().manual_seed(0)

    def sample(n):
        y = torch.randint(20, (n,), generator=draw)
        own = torch.where(y % 2 == 0, 4.0, 1.0)[:, None] * torch.eye(20)[y]
        z = own + torch.randn(n, 20, generator=draw)
        return z.double().softmax(1), y

    model = SplitConformal(0.1, by="cluster", generator=draw).fit(*sample(4000))
    kinds = model.clusters.tolist()
    assert len({kinds[k] for k in range(0, 20, 2)} & {kinds[k] for k in range(1, 20, 2)}) == 0
    probs, labels = sample(6000)
    report = coverage_report(model.predict(probs), labels, 0.1)
    assert min(one.coverage for one in report.by_class.values()) > 0.82
    assert torch.equal(model.p_values(probs) > 0.1 + 1e-12, model.predict(probs))
    few = SplitConformal(0.1, by="cluster", generator=draw).fit(*sample(60))
    assert (few.clusters == -1).all()  # too few to tell: what all have
    assert (few.quantiles == few.quantile).all()


def kinds_of_classes(each, seed):
    """Probabilities and labels of thirty classes, every third of them hard to tell."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(30).repeat(each)
    own = torch.where(y % 3 == 0, 0.0, 9.0)[:, None] * torch.eye(30)[y]
    return (own + torch.randn(len(y), 30, generator=draw)).double().softmax(1), y


def clusters_and_quantiles(s, y, u, alpha, classes):
    """Clustered conformal prediction as Ding et al. 2023 write it, sec. 2.2 and app. C."""
    cluster = pytest.importorskip("sklearn.cluster")
    few = next(n for n in range(1, 10**6) if math.ceil(round((n + 1) * (1 - alpha), 9)) <= n)
    count = np.bincount(y, minlength=classes)
    least = max(count.min(), few)
    kept = (count >= least).sum()
    taken = int(least * kept / (75 + kept))
    first = u < taken / least
    rows, weights, which = [], [], []
    for k in range(classes):
        mine = s[first & (y == k)]
        if len(mine) >= few:
            rows.append(np.quantile(mine, [0.5, 0.6, 0.7, 0.8, 0.9, 1 - alpha]))
            weights.append(len(mine) ** 0.5)
            which.append(k)
    found = np.full(classes, -1)
    model = cluster.KMeans(taken // 2, n_init=10, random_state=0)
    found[which] = model.fit(rows, sample_weight=weights).labels_
    rest, quantiles = ~first, np.empty(classes)
    for k in range(classes):
        mine = np.sort(s[rest & (found[y] == found[k])] if found[k] >= 0 else s[rest])
        place = math.ceil((len(mine) + 1) * (1 - alpha) - 1e-9)
        quantiles[k] = mine[place - 1] if place <= len(mine) else np.inf
    return found, quantiles


def clusters_case():
    # 19 a class, of which about five tell which classes are alike: two clusters.
    probs, y = kinds_of_classes(19, 3)
    u = torch.rand(len(y), generator=torch.Generator().manual_seed(5))
    scores = 1 - probs.gather(1, y[:, None])[:, 0].numpy()
    return probs, y, u, *clusters_and_quantiles(scores, y.numpy(), u.numpy(), 0.4, 30)


def test_clusters_and_thresholds_of_the_paper():
    probs, y, _, found, quantiles = clusters_case()
    draw = torch.Generator().manual_seed(5)
    model = SplitConformal(0.4, score="lac", by="cluster", generator=draw).fit(probs, y)
    mine = model.clusters.numpy()
    assert ((mine[:, None] == mine) == (found[:, None] == found)).all()  # whatever their names
    np.testing.assert_allclose(model.quantiles.numpy(), quantiles, rtol=1e-12)
    assert len(set(quantiles[found >= 0])) == 2


def test_k_means_finds_what_is_apart():
    points = torch.cat([torch.zeros(5, 2), torch.ones(4, 2) * 9, torch.ones(3, 2) * 20]).double()
    points = points + 0.1 * torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    found = k_means(points, torch.ones(12).double(), 3, torch.Generator().manual_seed(0))
    assert found.unique(return_counts=True)[1].sort().values.tolist() == [3, 4, 5]
    assert len(found[:5].unique()) == len(found[5:9].unique()) == len(found[9:].unique()) == 1


def test_classes_and_samples_too_few_take_everything():
    probs, labels = case(30)
    labels = labels.clamp(max=4)
    model = SplitConformal(0.1, by="class").fit(probs, labels)
    assert model.quantiles[5] == math.inf  # never seen
    assert model.predict(probs)[:, 5].all()
    assert SplitConformal(0.1).fit(probs[:8], labels[:8]).predict(probs).all()
    with pytest.raises(ValueError, match="must have 6 classes, got 2"):
        model.predict(torch.full((1, 2), 0.5))
    with pytest.raises(ValueError, match="by None; got"):
        model.fit(probs, labels, groups=labels)


@pytest.mark.parametrize("kind", ["absolute", "normalized", "quantile"])
def test_intervals_cover(kind):
    draw = torch.Generator().manual_seed(3)

    def sample(n):
        x = torch.rand(n, generator=draw, dtype=torch.float64)
        s = 0.2 + 2 * x
        return 3 * x + s * torch.randn(n, generator=draw, dtype=torch.float64), 3 * x, s

    def given(f, s):
        ends = torch.stack([f - 0.5, f + 0.5], 1)
        return {"absolute": (f,), "normalized": (f, s), "quantile": (ends,)}[kind]

    y, f, s = sample(2000)
    model = ConformalIntervals(0.1).fit(y, *given(f, s))
    y, f, s = sample(4000)
    held, width = interval_coverage(model.predict(*given(f, s)), y)
    assert held == pytest.approx(0.9, abs=0.025)
    assert width > 0


def test_intervals_by_hand_and_refusals():
    y = torch.arange(1.0, 10.0)
    model = ConformalIntervals(0.1).fit(y, torch.zeros(9))
    assert model.quantile == conformal_quantile(y, 0.1) == 9
    few = ConformalIntervals(0.1).fit(y[:8], torch.zeros(8))
    assert few.predict(torch.zeros(1)).tolist() == [[-math.inf, math.inf]]
    ends = torch.tensor([[0.0, 4.0]]).repeat(9, 1)
    assert ConformalIntervals(0.1).fit(y, ends).quantile == 5  # 9 - 4
    for call, text in (
        (lambda: ConformalIntervals(0.1).predict(y), "no threshold yet"),
        (lambda: ConformalIntervals().fit(y, y[:3]), r"predictions \(9,\)"),
        (lambda: ConformalIntervals().fit(y, y, 0 * y), "above 0"),
        (lambda: ConformalIntervals().fit(y, ends, y), "without a scale"),
        (lambda: ConformalIntervals().fit(y, y * torch.nan), "predictions must be finite"),
        (lambda: ConformalIntervals().fit(y[:0], y[:0]), r"n >= 1, got \(0,\)"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=text):
            call()


# What the same data give elsewhere; each package is an oracle where it is installed.


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        ("lac", "LAC", {}),
        ("aps", "APS", {"randomized": False}),
        ("raps", "RAPS", {"randomized": False, "penalty": 0.05, "kreg": 2}),
        ("saps", "SAPS", {"randomized": False, "weight": 0.2}),
        ("top_k", "TOPK", {"randomized": False}),
    ],
)
@pytest.mark.parametrize("by", [None, "class"])
def test_torchcp(ours, theirs, options, by):
    score = pytest.importorskip("torchcp.classification.score")
    predictors = pytest.importorskip("torchcp.classification.predictor")
    kinds = {None: predictors.SplitPredictor, "class": predictors.ClassConditionalPredictor}
    probs, labels = case(1000)
    new, _ = case(500, seed=1)
    peer = kinds[by](getattr(score, theirs)(score_type="identity", **options), alpha=0.1)
    peer.calculate_threshold(probs, labels)
    sets = peer.predict_with_logits(new).bool()
    mine = {"raps": {"penalty": 0.05, "free": 2}, "saps": {"penalty": 0.2}}.get(ours, {})
    model = SplitConformal(0.1, score=ours, randomized=False, by=by, **mine).fit(probs, labels)
    assert (model.predict(new) != sets).sum() <= 1  # at most a tie in the last bit


def test_torchcp_clusters(monkeypatch):
    score = pytest.importorskip("torchcp.classification.score")
    predictors = pytest.importorskip("torchcp.classification.predictor")
    probs, y, u, found, quantiles = clusters_case()
    monkeypatch.setattr(torch, "rand", lambda *_, **__: u)
    peer = predictors.ClusteredPredictor(score.LAC(score_type="identity"), alpha=0.4)
    peer.calculate_threshold(probs, y)
    kept = found >= 0  # rare classes: infinite there, the threshold of all samples in the paper
    np.testing.assert_allclose(peer.q_hat[kept].double().numpy(), quantiles[kept], rtol=1e-6)


def test_crepes():
    crepes = pytest.importorskip("crepes")
    probs, labels = case(400)
    new, _ = case(200, seed=1)
    alphas = 1 - probs.numpy()[np.arange(400), labels]
    peer = crepes.ConformalClassifier().fit(alphas)
    theirs = peer.predict_p(1 - new.numpy(), smoothing=False)
    ours = SplitConformal(0.1).fit(probs, labels).p_values(new)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-12)
    y = torch.randn(99, generator=torch.Generator().manual_seed(0)).double()
    regressor = crepes.ConformalRegressor().fit(residuals=y.numpy())
    # A confidence that floating point holds exactly: theirs is one rank off at 0.9 of 99.
    right = regressor.predict_int(y_hat=np.zeros(1), confidence=0.875)[0]
    zero = torch.zeros(99, dtype=torch.float64)
    found = ConformalIntervals(0.125).fit(y, zero).predict(zero[:1])
    np.testing.assert_allclose(found.numpy()[0], right)


def test_mapie():
    classification = pytest.importorskip("mapie.classification")
    linear = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(0)
    X = random.normal(size=(900, 4))
    y = (X @ random.normal(size=(4, 3)) + random.gumbel(size=(900, 3))).argmax(1)
    model = linear.LogisticRegression().fit(X[:300], y[:300])
    peer = classification.SplitConformalClassifier(
        model, confidence_level=0.9, conformity_score="lac", prefit=True
    ).conformalize(X[300:600], y[300:600])
    sets = peer.predict_set(X[600:])[1][:, :, 0]
    p = [torch.from_numpy(model.predict_proba(part)) for part in (X[300:600], X[600:])]
    found = SplitConformal(0.1).fit(p[0], torch.from_numpy(y[300:600])).predict(p[1])
    assert np.array_equal(found.numpy(), sets)
