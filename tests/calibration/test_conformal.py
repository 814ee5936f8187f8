import math

import pytest
import torch

from qact import Context
from qact.calibration import (
    ConformalRiskControl,
    SplitConformal,
    conformal_quantile,
    context_distance,
    context_weights,
    coverage,
    coverage_by,
    mean_average_precision,
    risk_control,
)

ALPHA = 0.1


def case(n, seed=0, classes=6, temperature=1.0):
    """Probabilities, and labels drawn from them at another temperature."""
    generator = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    y = torch.multinomial((z / temperature).softmax(1), 1, generator=generator)[:, 0]
    return z.softmax(1), y


MAKERS = {
    "threshold": lambda seed: SplitConformal(ALPHA),
    "adaptive": lambda seed: SplitConformal(
        ALPHA, score="adaptive", generator=torch.Generator().manual_seed(10_000 + seed)
    ),
    "risk": lambda seed: ConformalRiskControl(ALPHA),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("temperature", [1.0, 3.0])  # calibrated or not does not matter
def test_coverage_of_exchangeable_data_is_within_its_binomial_bounds(name, temperature):
    n, m, runs = 99, 200, 300
    hits = 0
    for seed in range(runs):
        probs, labels = case(n + m, seed, temperature=temperature)
        model = MAKERS[name](seed).fit(probs[:n], labels[:n])
        hits += coverage(model.predict(probs[n:]), labels[n:]).coverage * m
    rate = hits / (runs * m)
    # Given the calibration set, coverage is Beta(k, n + 1 - k) around k/(n + 1); then binomial.
    variance = 0.9 * 0.1 / (n + 2) / runs + 0.9 * 0.1 / (runs * m)
    low, high = 1 - ALPHA, 1 - ALPHA + 1 / (n + 1)
    assert low - 3.3 * math.sqrt(variance) < rate < high + 3.3 * math.sqrt(variance)


def test_without_chance_adaptive_sets_repeat():
    probs, labels = case(4000)
    half = slice(0, 2000), slice(2000, 4000)
    sure = SplitConformal(ALPHA, score="adaptive", randomized=False)
    sets = sure.fit(probs[half[0]], labels[half[0]]).predict(probs[half[1]])
    assert coverage(sets, labels[half[1]]).coverage == pytest.approx(0.9, abs=0.03)
    assert torch.equal(sets, sure.predict(probs[half[1]]))


def test_adaptive_scores_by_loops():
    probs, labels = case(50)
    model = SplitConformal(ALPHA, score="adaptive", randomized=False).fit(probs, labels)
    scores = []
    for row, label in zip(probs.tolist(), labels.tolist(), strict=True):
        scores.append(sum(p for p in row if p > row[label]) + row[label])
    expected = sorted(scores)[math.ceil(51 * 0.9) - 1]
    assert model.quantile == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [1, 5, 8, 9, 10, 99, 500])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.5])
def test_the_quantile_is_the_order_statistic(n, alpha):
    scores = torch.rand(n, dtype=torch.float64)
    k = math.ceil(round((n + 1) * (1 - alpha), 9))
    expected = scores.sort().values[k - 1].item() if k <= n else math.inf
    assert conformal_quantile(scores, alpha) == expected
    assert conformal_quantile(scores, alpha, torch.ones(n)) == expected


def test_too_few_samples_give_every_class():
    probs, labels = case(5)
    assert SplitConformal(ALPHA).fit(probs, labels).predict(probs).all()
    assert ConformalRiskControl(ALPHA).fit(probs, labels).predict(probs).all()
    nothing = torch.zeros(100)
    probs, labels = case(100)
    assert SplitConformal(ALPHA).fit(probs, labels, nothing).predict(probs).all()
    assert ConformalRiskControl(ALPHA).fit(probs, labels, nothing).threshold == 1


def test_the_risk_control_of_misses_is_the_conformal_quantile():
    probs, labels = case(400)
    weights = torch.rand(400)
    for w in (None, weights):
        threshold = ConformalRiskControl(ALPHA, grid=20_001).fit(probs, labels, w).threshold
        quantile = SplitConformal(ALPHA).fit(probs, labels, w).quantile
        assert threshold == pytest.approx(quantile, abs=1e-4)


def test_risk_control_by_the_formula():
    # n = 99, B = 1, alpha = 0.1: the mean risk must be at most 0.1 * 100/99 - 1/99 = 1/11.
    for misses, expected in ((9, 0), (10, 1)):
        losses = torch.zeros(99, 2)
        losses[:misses, 0] = 1
        assert risk_control(losses, 0.1) == expected
    assert risk_control(torch.ones(10, 3), 0.1) == 2  # nothing will do: the last


def test_another_loss_is_controlled():
    cost = torch.tensor([1.0, 1, 0.2, 0.2, 0.2, 0.2], dtype=torch.float64)

    def loss(sets, labels):
        return cost[labels] * (1 - sets.gather(1, labels[:, None])[:, 0].double())

    risks = []
    for seed in range(200):
        probs, labels = case(300, seed)
        model = ConformalRiskControl(0.05, loss=loss).fit(probs[:150], labels[:150])
        risks.append(loss(model.predict(probs[150:]), labels[150:]).mean())
    mean, spread = torch.stack(risks).mean(), torch.stack(risks).std() / math.sqrt(200)
    assert mean < 0.05 + 3 * spread
    assert mean > 0.05 - 2 / 151 - 3 * spread  # and not by giving everything


def test_weights_restore_coverage_after_a_shift():
    # Half of the held-out samples are like the test, half are easy.
    easy, hard = case(600, 1, temperature=0.4), case(600, 2, temperature=4.0)
    probs, labels = torch.cat([easy[0], hard[0]]), torch.cat([easy[1], hard[1]])
    new, truth = case(3000, 3, temperature=4.0)
    weights = torch.cat([torch.full((600,), 0.01), torch.ones(600)])
    plain = coverage(SplitConformal(ALPHA).fit(probs, labels).predict(new), truth).coverage
    weighted = SplitConformal(ALPHA).fit(probs, labels, weights).predict(new)
    assert plain < 0.87
    assert coverage(weighted, truth).coverage == pytest.approx(0.9, abs=0.025)


def test_coverage_by_group():
    sets = torch.tensor([[True, False], [True, False], [True, True]])
    found = coverage_by(sets, torch.tensor([0, 1, 1]), torch.tensor([3, 3, 5]))
    assert (found[3].coverage, found[3].size, found[3].count) == (0.5, 1.0, 2)
    assert (found[5].coverage, found[5].size, found[5].count) == (1.0, 2.0, 1)


def test_context_distance_is_the_kolmogorov_distance():
    stats = pytest.importorskip("scipy.stats")
    a, b = torch.randn(3000, 4), torch.randn(2000, 4) * torch.tensor([1, 2, 0.5, 1]) + 0.3
    expected = [stats.ks_2samp(a[:, c].numpy(), b[:, c].numpy()).statistic for c in range(4)]
    found = context_distance(Context(4).add(a), Context(4).add(b))
    assert found == pytest.approx(sum(expected) / 4, abs=0.01)
    assert context_distance(Context(4).add(a), Context(4).add(a)) == 0
    far = Context(4).add(a + 1000)
    assert context_distance(Context(4).add(a), far) == pytest.approx(1, abs=0.01)


def test_context_weights_fall_with_the_shift():
    x = torch.randn(2000, 3)
    held = [Context(3).add(x + shift) for shift in (0.0, 0.1, 0.5, 2.0)]
    weights = context_weights(held, Context(3).add(torch.randn(2000, 3)))
    assert weights.tolist() == sorted(weights.tolist(), reverse=True)
    assert weights[0] > 0.4
    assert weights[-1] < 1e-3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p, y: SplitConformal(1.0), ValueError, r"alpha=1\.0"),
        (lambda p, y: SplitConformal(score="rasp"), ValueError, "score='rasp'"),
        (lambda p, y: SplitConformal().predict(p), RuntimeError, "call fit"),
        (lambda p, y: ConformalRiskControl().predict(p), RuntimeError, "call fit"),
        (lambda p, y: SplitConformal().fit(p, y, y.double()), ValueError, r"\(20,\) in \[0, 1\]"),
        (lambda p, y: SplitConformal().fit(p * 2, y), ValueError, "probs must lie"),
        (lambda p, y: risk_control(p.sort().values, 0.1), ValueError, "do not grow"),
        (lambda p, y: risk_control(3 - 0 * p, 0.1), ValueError, r"exceed bound=1\.0"),
        (lambda p, y: coverage(p, y), ValueError, "must be .* bool"),
        (
            lambda p, y: context_distance(Context(2), Context(3)),
            ValueError,
            "2 and 3 channels",
        ),
        (lambda p, y: context_weights([], Context(2), scale=0.0), ValueError, r"scale=0\.0"),
    ],
)
def test_wrong_use_is_named(call, error, message):
    probs, labels = case(20)
    with pytest.raises(error, match=message):
        call(probs, labels + 2 * (labels == 1).long() if "in \\[0" in message else labels)


@pytest.mark.parametrize("fitted", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("asked", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("score", ["threshold", "adaptive"])
def test_what_equals_the_threshold_is_in_the_set_in_every_dtype(fitted, asked, score):
    rows = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7]], dtype=torch.float64)
    labels = torch.tensor([0] * 69 + [1] * 21 + [2] * 9)
    held = rows[:1].repeat(99, 1)
    model = SplitConformal(0.2, score=score, randomized=False).fit(held.to(fitted), labels)
    # The 80th of 99 scores is that of 0.2: 0.8 by threshold, 0.7 + 0.2 adaptive.
    expected = rows >= 0.2
    assert torch.equal(model.predict(rows.to(asked)), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_risk_control_finds_thresholds_of_its_grid_in_every_dtype(dtype):
    labels = torch.tensor([0] * 69 + [1] * 21 + [2] * 9)
    probs = torch.tensor([[0.7, 0.2, 0.1]], dtype=dtype).repeat(99, 1)
    model = ConformalRiskControl(0.2).fit(probs, labels)
    assert model.threshold == pytest.approx(0.8, abs=1e-12)  # p >= 1 - 0.8, not a step further
    assert model.predict(probs[:1]).tolist() == [[True, True, False]]


def test_risk_is_controlled_in_the_unit_of_the_losses():
    misses = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], dtype=torch.float64).repeat(50, 1)
    for unit in (1e-20, 1.0, 1e20):
        assert risk_control(unit * misses, 0.5 * unit, bound=unit) == 2
        assert risk_control(unit * misses, 0.52 * unit, bound=unit) == 1
        with pytest.raises(ValueError, match="numbers that do not grow along a row"):
            risk_control(unit * misses.flip(1), 0.5 * unit, bound=unit)
    with pytest.raises(ValueError, match="numbers that do not grow along a row"):
        risk_control(misses * torch.nan, 0.5)


def test_nothing_to_retrieve_is_said_of_an_empty_batch():
    with pytest.raises(ValueError, match="there is nothing to retrieve"):
        mean_average_precision(torch.zeros(0, 3), torch.zeros(0).long())
