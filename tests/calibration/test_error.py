import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor

from qact.calibration import (
    accuracy,
    adaptive_calibration_error,
    binary_calibration_error,
    bootstrap_interval,
    brier_decomposition,
    brier_score,
    calibration_error,
    reliability,
)
from qact.calibration.bins import bin_index


def random_case(n, classes, seed=0, sharp=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits.softmax(1), torch.randint(classes, (n,), generator=generator)


def calibrated(n, seed=0, classes=4):
    """Labels drawn from the very probabilities that are predicted."""
    probs, _ = random_case(n, classes, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return probs, torch.multinomial(probs, 1, generator=generator)[:, 0]


@pytest.mark.parametrize("bins", [1, 7, 15])
@pytest.mark.parametrize("n", [1, 50, 3000])
def test_maximum_equals_torchmetrics(n, bins):
    oracle = pytest.importorskip("torchmetrics.functional.classification")
    probs, labels = random_case(n, 5)
    expected = oracle.multiclass_calibration_error(
        probs, labels, num_classes=5, n_bins=bins, norm="max"
    )
    found = calibration_error(probs, labels, n_bins=bins, p="max")
    assert found == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("p", [1, 2])
def test_marginal_is_the_mean_of_one_against_the_rest_by_torchmetrics(p):
    oracle = pytest.importorskip("torchmetrics.functional.classification")
    probs, labels = random_case(2000, 4)
    # torchmetrics' binary error takes p against the event itself: one column, one class.
    powers = [
        float(oracle.binary_calibration_error(probs[:, c], labels == c, n_bins=15, norm=f"l{p}"))
        ** p
        for c in range(4)
    ]
    found = calibration_error(probs, labels, kind="marginal", p=p)
    assert found == pytest.approx((sum(powers) / 4) ** (1 / p), abs=1e-6)


def equal_parts(n, ranges):
    return [range(k * n // ranges, (k + 1) * n // ranges) for k in range(ranges)]


@pytest.mark.parametrize(("n", "ranges"), [(30, 3), (100, 15), (61, 7)])
def test_adaptive_error_by_loops(n, ranges):
    probs, labels = random_case(n, 3)
    total = 0.0
    for c in range(3):
        order = sorted(range(n), key=lambda i: float(probs[i, c]))
        for part in equal_parts(n, ranges):
            rows = [order[i] for i in part]
            rate = sum(int(labels[i]) == c for i in rows) / len(rows)
            total += abs(rate - sum(float(probs[i, c]) for i in rows) / len(rows))
    assert adaptive_calibration_error(probs, labels, n_ranges=ranges) == pytest.approx(
        total / (3 * ranges), abs=1e-12
    )


def test_adaptive_is_marginal_where_ranges_are_equal():
    probs, labels = random_case(150, 6)
    marginal = calibration_error(probs, labels, kind="marginal", binning="equal_mass")
    assert adaptive_calibration_error(probs, labels) == pytest.approx(marginal, abs=1e-12)


def test_by_hand():
    probs = tensor([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]])
    labels = tensor([0, 0, 1, 0])
    assert calibration_error(probs, labels, p="max") == pytest.approx(0, abs=1e-12)  # 3 of 4 right
    # Class 0: at 0.75 always, at 0.25 half of the time; class 1 mirrors it.
    for p in (1, 2, "max"):
        assert calibration_error(probs, labels, kind="marginal", p=p) == pytest.approx(0.25)
    assert adaptive_calibration_error(probs, labels, n_ranges=2) == pytest.approx(0.25)
    hit = tensor([True, True, False, True])
    assert binary_calibration_error(tensor([0.5, 0.5, 0.5, 1.0]), hit) == pytest.approx(1 / 8)


@pytest.mark.parametrize("kind", ["top_label", "marginal"])
def test_calibrated_predictions_have_a_debiased_error_of_zero_within_its_interval(kind):
    def squared(probs, labels):
        return calibration_error(
            probs, labels, kind=kind, p=2, binning="equal_mass", debias=True, root=False
        )

    covered = 0
    for seed in range(20):
        found = bootstrap_interval(squared, *calibrated(2000, seed), level=0.99, resamples=100)
        # The bootstrap repeats the sample's own noise: centre it on the estimate.
        half = (found.high - found.low) / 2
        covered += abs(found.value) <= half
    assert covered >= 18
    probs, labels = calibrated(2000)
    wrong = (probs**3) / (probs**3).sum(1, keepdim=True)
    found = bootstrap_interval(squared, wrong, labels, level=0.99, resamples=100)
    assert found.low > 0  # and it does find what is wrong


@pytest.mark.parametrize("kind", ["top_label", "marginal"])
def test_debiased_error_is_unbiased(kind):
    options = {"kind": kind, "binning": "equal_mass", "p": 2, "root": False}
    plain, debiased = [], []
    for seed in range(150):
        case = calibrated(400, seed)
        plain.append(calibration_error(*case, **options))
        debiased.append(calibration_error(*case, **options, debias=True))
    mean, spread = tensor(debiased).mean(), tensor(debiased).std() / math.sqrt(len(debiased))
    assert abs(mean) < 3 * spread
    assert tensor(plain).mean() > 10 * spread


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
@pytest.mark.parametrize("kind", ["top_label", "marginal"])
@pytest.mark.parametrize("p", [1, 2, "max"])
def test_certain_predictions_one_class_and_empty_bins(binning, kind, p):
    options = {"binning": binning, "kind": kind, "p": p}
    sure = tensor([[0.0, 1.0], [0.0, 1.0]])
    assert calibration_error(sure, tensor([1, 1]), **options) == 0
    assert calibration_error(sure, tensor([0, 0]), **options) == 1
    probs, _ = random_case(40, 3)
    only = torch.zeros(40, dtype=torch.long)  # labels of one class
    assert 0 < calibration_error(probs, only, **options) <= 1
    # More bins than samples: the empty ones change nothing.
    lone = tensor([[0.6, 0.4]])
    assert calibration_error(lone, tensor([0]), n_bins=500, **options) == pytest.approx(0.4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_first(dtype):
    narrow = random_case(500, 10)[0].to(dtype)
    labels = random_case(500, 10)[1]
    for metric in (adaptive_calibration_error, lambda p, y: brier_decomposition(p, y).reliability):
        # The rows of narrow probabilities sum to 1 only so far: float64 would refuse them.
        wide = narrow.double() / narrow.double().sum(1, keepdim=True)
        assert metric(narrow, labels) == pytest.approx(metric(wide, labels), abs=1e-2)


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
@pytest.mark.parametrize("n", [1, 20, 1000])
def test_brier_parts_add_up(n, binning):
    probs, labels = random_case(n, 4)
    parts = brier_decomposition(probs, labels, binning=binning)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    assert total == pytest.approx(brier_score(probs, labels), abs=1e-12)
    assert min(parts.reliability, parts.resolution, parts.uncertainty) >= 0


def test_brier_parts_tell_calibration_from_knowledge():
    probs, labels = calibrated(20_000)
    sharp = brier_decomposition(probs, labels)
    assert sharp.reliability < 0.003
    prior = torch.nn.functional.one_hot(labels, 4).double().mean(0).expand(len(labels), 4)
    know_nothing = brier_decomposition(prior, labels)
    assert know_nothing.reliability == pytest.approx(0, abs=1e-12)
    assert know_nothing.resolution == pytest.approx(0, abs=1e-12)
    assert know_nothing.uncertainty == pytest.approx(sharp.uncertainty)
    assert sharp.resolution > 0.2


def test_bootstrap_interval_of_a_rate_is_the_binomial_one():
    hits = (torch.arange(400) % 4 > 0).double()
    found = bootstrap_interval(lambda h: h.mean().item(), hits, resamples=2000)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert found.low == pytest.approx(0.75 - half, abs=0.01)
    assert found.high == pytest.approx(0.75 + half, abs=0.01)
    assert found == bootstrap_interval(lambda h: h.mean().item(), hits, resamples=2000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, y: calibration_error(p, y, kind="class"), "kind must be .* got 'class'"),
        (lambda p, y: calibration_error(p, y, p="max", debias=True), "p=2, got p='max'"),
        (lambda p, y: calibration_error(p[:, :1], y), "two columns"),
        (lambda p, y: binary_calibration_error(p, y), r"must both be \(N,\)"),
        (lambda p, y: binary_calibration_error(p[:, 0] + 1, y), "confidence must lie in"),
        (lambda p, y: binary_calibration_error(p[:, 0], y + 1), "hit must hold 0 and 1"),
        (lambda p, y: brier_decomposition(p, y, n_bins=0), "n_bins=0 must be at least 1"),
        (lambda p, y: bootstrap_interval(accuracy, p, y[:2]), r"one length .* \[2, 30\]"),
        (lambda p, y: bootstrap_interval(accuracy, p, y, level=1.0), r"level=1\.0"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(*random_case(30, 3))


# netcal 1.4.0, netcal.metrics.confidence.ECE and MCE with so many bins, on the case below.
NETCAL = {
    7: (0.531576596237039, 0.6678792063732283),
    10: (0.5326986077021859, 0.69400417001837),
    15: (0.531576596237039, 0.7217843420188034),
}


@pytest.mark.parametrize("bins", NETCAL)
def test_mean_and_maximum_equal_netcals(bins):
    grid = torch.arange(4000, dtype=torch.float64).reshape(1000, 4)
    probs = (3 * (1.7 * grid).sin()).softmax(1)
    labels = ((torch.arange(1000) * 7919) % 1000 * 4) // 1000
    ece, mce = NETCAL[bins]
    assert calibration_error(probs, labels, n_bins=bins) == pytest.approx(ece, abs=1e-12)
    assert calibration_error(probs, labels, n_bins=bins, p="max") == pytest.approx(mce, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@given(st.integers(2, 100))
def test_an_edge_belongs_to_the_bin_below_it_in_every_dtype(dtype, bins):
    edges = (torch.arange(1, bins, dtype=torch.float64) / bins).to(dtype)
    index = bin_index(edges.double(), bins, "equal_width", dtype)
    assert index.tolist() == list(range(bins - 1))
    above = torch.nextafter(edges, torch.ones_like(edges))
    index = bin_index(above.double(), bins, "equal_width", dtype)
    assert index.tolist() == list(range(1, bins))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_shares_of_votes_fall_into_the_bins_of_their_formula(dtype):
    share = (torch.arange(11, dtype=torch.float64) / 10).to(dtype)
    hit = torch.arange(11) % 3 == 0
    # (k/10, (k+1)/10]: 0 and 1/10 share the first bin, every other share has its own.
    gaps: list[float] = []
    pairs = [[0, 1], *([k] for k in range(2, 11))]
    for group in pairs:
        rate = sum(float(hit[k]) for k in group) / len(group)
        mean = sum(float(share[k]) for k in group) / len(group)
        gaps.append(len(group) / 11 * abs(rate - mean))
    found = binary_calibration_error(share, hit, n_bins=10)
    assert found == pytest.approx(sum(gaps), abs=1e-12)
    probs = torch.stack([1 - share, share], 1)
    marginal = calibration_error(probs, hit.long(), kind="marginal", n_bins=10)
    assert marginal == pytest.approx(found, abs=0.2 if dtype == torch.bfloat16 else 0.1)


def test_by_hand_in_float32():
    confidence, hit = tensor([0.3, 0.35]), tensor([1, 0])
    assert binary_calibration_error(confidence, hit, n_bins=10) == pytest.approx(0.525)
    exact = tensor([0.3, 0.35], dtype=torch.float64)
    assert binary_calibration_error(exact, hit, n_bins=10) == pytest.approx(0.525)
    probs = torch.stack([confidence, 1 - confidence], 1)
    table = reliability(tensor([[0.3, 0.7], [0.4, 0.6]]), tensor([1, 1]), n_bins=10)
    assert table.count.nonzero()[:, 0].tolist() == [5, 6]  # (.5, .6] and (.6, .7]
    parts = brier_decomposition(probs, hit, n_bins=10, binning="equal_width")
    wide = torch.stack([exact, 1 - exact], 1)
    wide = brier_decomposition(wide, hit, n_bins=10, binning="equal_width")
    assert parts.reliability == pytest.approx(wide.reliability, abs=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 12), st.integers(1, 6))
def test_equal_mass_by_counting(seed, n, bins, distinct):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(distinct, (n,), generator=generator).double() / distinct
    ordered = sorted(x.tolist())
    # A cut behind the k N // B-th smallest, moved behind all that equal it.
    cuts = {ordered[k * n // bins - 1] for k in range(1, bins) if k * n // bins}
    expected = [sum(cut < value for cut in cuts) for value in x.tolist()]
    assert bin_index(x, bins, "equal_mass").tolist() == expected


def test_neighbouring_floats_are_parted():
    low = torch.tensor(0.1, dtype=torch.float64)
    for _ in range(4):
        high = torch.nextafter(low, torch.ones_like(low))
        pair = torch.stack([low, high])
        assert bin_index(pair, 2, "equal_mass").tolist() == [0, 1]
        low = high
