"""Miners, metrics, references and memory against pytorch-metric-learning and the definitions."""

import math

import pytest
import torch
from torch import tensor

from qact import losses
from qact.losses.distances import METRICS, measured
from qact.losses.miners import MINERS

CASES = {
    "TripletMarginMiner": [
        {"margin": 0.3, "type_of_triplets": kind} for kind in ("all", "hard", "semihard", "easy")
    ],
    "BatchHardMiner": [{}],
    "BatchEasyHardMiner": [
        {"pos_strategy": p, "neg_strategy": n}
        for p in ("easy", "semihard", "hard", "all")
        for n in ("easy", "semihard", "hard", "all")
        if (p, n) not in {("semihard", "semihard"), ("all", "semihard"), ("semihard", "all")}
    ]
    + [{"allowed_pos_range": (0.3, 1.1), "allowed_neg_range": (0.2, 1.5)}],
    "MultiSimilarityMiner": [{"epsilon": 0.1}, {"epsilon": -0.2}],
    "PairMarginMiner": [{"pos_margin": 0.6, "neg_margin": 1.2}],
    "AngularMiner": [{"angle": 20}, {"angle": 35}],
    "HDCMiner": [{"filter_percentage": 0.3}],
}
EVERY = [(name, options) for name, cases in CASES.items() for options in cases]


def case(n=24, classes=4, size=5):
    return torch.randn(n, size, dtype=torch.float64), torch.randint(classes, (n,))


def indices(found):
    """Sets of pairs, or of triplets."""
    if len(found) == 3:
        return set(zip(*(part.tolist() for part in found), strict=True))
    a1, p, a2, n = (part.tolist() for part in found)
    return set(zip(a1, p, strict=True)), set(zip(a2, n, strict=True))


@pytest.mark.parametrize(("name", "options"), EVERY)
@pytest.mark.parametrize("against", ["itself", "references"])
def test_finds_what_pytorch_metric_learning_finds(name, options, against):
    theirs = pytest.importorskip("pytorch_metric_learning.miners")
    x, y = case()
    references = () if against == "itself" else case(31)
    found = getattr(losses, name)(**options)(x, y, *references)
    assert indices(found) == indices(getattr(theirs, name)(**options)(x, y, *references))


@pytest.mark.parametrize("metric", ["euclidean", "squared", "cosine"])
def test_in_other_metrics(metric):
    theirs = pytest.importorskip("pytorch_metric_learning.miners")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    like = {
        "euclidean": distances.LpDistance(normalize_embeddings=False),
        "squared": distances.LpDistance(normalize_embeddings=False, power=2),
        "cosine": distances.CosineSimilarity(),
    }[metric]
    x, y = case()
    found = losses.BatchHardMiner(metric=metric)(x, y)
    assert indices(found) == indices(theirs.BatchHardMiner(distance=like)(x, y))
    found = losses.TripletMarginMiner(metric=metric, type_of_triplets="semihard")(x, y)
    other = theirs.TripletMarginMiner(distance=like, type_of_triplets="semihard")
    assert indices(found) == indices(other(x, y))


@pytest.mark.parametrize("name", MINERS)
@pytest.mark.parametrize("labels", [[1, 1, 1, 1], [0, 1, 2, 3]])
def test_without_positives_or_negatives_there_is_no_triplet(name, labels):
    found = getattr(losses, name)()(torch.randn(4, 3), tensor(labels))
    pairs = indices(found)
    if len(found) == 3:
        assert not pairs
    else:
        assert not pairs[0] or not pairs[1]
    assert all(part.dtype == torch.int64 for part in found)


def test_distance_weighted_draws_negatives_by_one_over_the_density():
    torch.manual_seed(0)
    x, y = torch.nn.functional.normalize(torch.randn(5, 6).double()), tensor([0, 0, 1, 1, 1])
    miner = losses.DistanceWeightedMiner(cutoff=0.1, nonzero_loss_cutoff=1.99)
    d = measured(x[:1], x[2:])[0]
    expected = 1 / (d**4 * (1 - d**2 / 4) ** 1.5)
    draws = torch.cat([n for _ in range(1500) for a, _, n in [miner(x, y)] for n in [n[a == 0]]])
    share = torch.bincount(draws - 2, minlength=3) / len(draws)
    assert torch.allclose(share, (expected / expected.sum()).float(), atol=0.05)
    a, p, n = miner(x, y)
    assert (y[a] == y[p]).all()
    assert (a != p).all()
    assert (y[a] != y[n]).all()


def test_uniform_histogram_draws_as_many_from_every_bin():
    x, y = case(40)
    miner = losses.UniformHistogramMiner(num_bins=5, pos_per_bin=7, neg_per_bin=3)
    a1, p, a2, n = miner(x, y)
    d = measured(x, metric="normalised")
    for value, mask, count in ((d[a1, p], y[:, None] == y, 7), (d[a2, n], y[:, None] != y, 3)):
        known = d[mask & ~torch.eye(40, dtype=torch.bool)]
        size = torch.histc(value, 5, known.min(), known.max())
        assert (size == count).all()
    assert (y[a1] == y[p]).all()
    assert (y[a2] != y[n]).all()


def test_metrics_by_definition():
    x, r = torch.randn(6, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    cos = torch.nn.functional.cosine_similarity(x[:, None], r, dim=2)
    expected = {
        "euclidean": torch.cdist(x, r),
        "squared": torch.cdist(x, r) ** 2,
        "normalised": (2 - 2 * cos).sqrt(),
        "cosine": 1 - cos,
    }
    for metric in METRICS:
        torch.testing.assert_close(measured(x, r, metric), expected[metric])
        x.requires_grad_()
        assert torch.autograd.gradcheck(lambda x, m=metric: measured(x, r, m), x)


@pytest.mark.parametrize("miner", ["all", "hard", "semi_hard"])
@pytest.mark.parametrize("metric", METRICS)
def test_references_that_are_the_batch_are_the_batch(miner, metric):
    x, y = case()
    options = {"miner": miner, "metric": metric, "margin": 0.3}
    plain = losses.triplet_loss(x, y, **options)
    against = losses.triplet_loss(
        x, y, references=x, reference_labels=y, itself=torch.arange(len(x)), **options
    )
    assert plain.item() == pytest.approx(against.item(), rel=1e-9)


def test_cross_batch_memory_equals_pytorch_metric_learning():
    module = pytest.importorskip("pytorch_metric_learning.losses")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    plain = distances.LpDistance(normalize_embeddings=False)
    theirs = module.CrossBatchMemory(module.TripletMarginLoss(margin=0.5, distance=plain), 5, 40)
    ours = losses.CrossBatchMemory(losses.TripletLoss(0.5, "all"), 5, 40).double()
    for _ in range(4):  # the last ones overwrite the first
        x, y = case(15)
        one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
        found, expected = ours(one, y), theirs(two, y)
        assert found.item() == pytest.approx(expected.item(), rel=1e-9)
        torch.testing.assert_close(
            torch.autograd.grad(found, one)[0], torch.autograd.grad(expected, two)[0]
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: losses.BatchHardMiner(metric="city"), "metric='city'"),
        (lambda x, y: losses.triplet_loss(x, y, metric="city"), "metric='city'"),
        (lambda x, y: losses.TripletMarginMiner(type_of_triplets="odd"), "'odd'"),
        (lambda x, y: losses.BatchEasyHardMiner("semihard", "all"), "do not go together"),
        (lambda x, y: losses.BatchHardMiner()(x, y, x), "reference_labels"),
        (lambda x, y: losses.triplet_loss(x, y, references=x), "reference_labels"),
        (lambda x, y: losses.BatchHardMiner()(x * math.nan, y), "finite"),
        (lambda x, y: losses.CrossBatchMemory(losses.TripletLoss(), 5, 9)(x, y), r"got \(24, 5\)"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(*case())
