import itertools
import math

import pytest
import torch
from torch import tensor

from qact.losses import (
    CrossEntropy,
    TripletLoss,
    TripletWatershedLoss,
    cross_entropy,
    triplet_loss,
    triplet_watershed_loss,
    watershed_loss,
)
from qact.losses.distances import distances_to, pairwise_distances, squared_distances
from qact.losses.mining import MINERS, hard, hardest

MARGIN = 0.7


def case(n=14, classes=3, size=4):
    return torch.randn(n, size, dtype=torch.float64), torch.randint(classes, (n,))


def terms(x, y, miner):
    """The terms of the loss, from all N^3 triples and the definitions of the miners."""
    d = [[math.dist(a, b) for b in x.tolist()] for a in x.tolist()]
    n, y = len(y), y.tolist()
    found = {}
    for a, p, q in itertools.product(range(n), repeat=3):
        if a == p or y[a] != y[p] or y[a] == y[q]:
            continue
        value = max(0.0, MARGIN + d[a][p] - d[a][q])
        if miner == "all" and value > 0:
            found[a, p, q] = value
        if miner == "hard":
            found[a] = max(found.get(a, 0.0), value)
        if miner == "semi_hard" and d[a][p] < d[a][q] < d[a][p] + MARGIN:
            found[a, p] = max(found.get((a, p), 0.0), value)
    return list(found.values())


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition_over_all_triples(miner, seed):
    torch.manual_seed(seed)
    x, y = case()
    expected = terms(x, y, miner)
    assert triplet_loss(x, y, margin=MARGIN, miner=miner).item() == pytest.approx(
        sum(expected) / len(expected), abs=1e-10
    )


@pytest.mark.parametrize("miner", MINERS)
def test_gradient_by_finite_differences(miner):
    x, y = case()
    assert torch.autograd.gradcheck(
        lambda x: triplet_loss(x, y, miner=miner), x.requires_grad_(), eps=1e-7, atol=1e-5
    )


@pytest.mark.parametrize("miner", ["all", "hard"])
def test_equals_pytorch_metric_learning(miner):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    plain = distances.LpDistance(normalize_embeddings=False)
    reference = losses.TripletMarginLoss(margin=MARGIN, distance=plain)
    x, y = case(20)
    pairs = None if miner == "all" else miners.BatchHardMiner(distance=plain)(x, y)
    if miner == "hard":  # theirs averages over positive terms: undo that
        a, p, n = pairs
        d = torch.cdist(x, x)
        expected = (MARGIN + d[a, p] - d[a, n]).clamp_min(0).mean()
    else:
        expected = reference(x, y, pairs)
    found = triplet_loss(x, y, margin=MARGIN, miner=miner)
    assert found.item() == pytest.approx(expected.item(), abs=1e-8)


DEGENERATE = {
    "one sample": (torch.randn(1, 3), tensor([0])),
    "one class": (torch.randn(4, 3), tensor([1, 1, 1, 1])),
    "one of each": (torch.randn(3, 3), tensor([0, 1, 2])),
    "far apart": (tensor([[0.0], [0.1], [90.0], [90.1]]), tensor([0, 0, 1, 1])),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("loss", [triplet_loss, triplet_watershed_loss])
def test_without_triplets_the_loss_and_its_gradient_are_zero(name, miner, loss):
    x, y = DEGENERATE[name]
    x = x.clone().requires_grad_()
    value = loss(x, y, miner=miner)
    value.backward()
    assert value.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


@pytest.mark.parametrize("miner", ["all", "hard"])
def test_duplicates_have_a_finite_gradient(miner):
    x = torch.ones(6, 3, requires_grad=True)
    loss = triplet_loss(x, tensor([0, 0, 0, 1, 1, 1]), miner=miner)
    loss.backward()
    assert loss.item() == 1  # the margin
    assert torch.isfinite(x.grad).all()


def test_distances_are_exact_symmetric_and_zero_on_the_diagonal():
    x = torch.randn(30, 7, dtype=torch.float64) + 50
    d = pairwise_distances(x)
    assert torch.allclose(d, torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist"))
    assert torch.equal(d, d.T)
    assert not d.diagonal().any()
    index = torch.randint(30, (30, 4))
    assert torch.allclose(distances_to(x, index), d.gather(1, index), atol=1e-9)


def test_gradients_of_distances_by_finite_differences():
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    index = torch.randint(8, (8, 5))
    index[:, 0] = torch.arange(8)[torch.randperm(8)]
    index = torch.where(index == torch.arange(8)[:, None], (index + 1) % 8, index)
    assert torch.autograd.gradcheck(lambda x: distances_to(x, index), x)
    assert torch.autograd.gradcheck(
        lambda x: pairwise_distances(x)[~torch.eye(8, dtype=torch.bool)], x
    )
    assert torch.autograd.gradgradcheck(
        lambda x: pairwise_distances(x)[~torch.eye(8, dtype=torch.bool)], x
    )


def test_close_pairs_keep_their_digits_far_from_the_origin():
    x = tensor([[1000.0, 0.0], [1000.001, 0.0], [-1000.0, 5.0]])
    assert distances_to(x, tensor([[1], [0], [2]]))[0].item() == pytest.approx(0.001, rel=0.05)


def test_unknown_labels_are_propagated():
    # Two lines of points; only one end of each is labelled.
    line = torch.arange(10.0)[:, None] * torch.tensor([[1.0, 0.0]])
    x = torch.cat([line, line + torch.tensor([0.0, 2.5])])
    y = torch.full((20,), -1)
    y[0], y[10] = 0, 1
    true = torch.arange(20) // 10
    found = triplet_watershed_loss(x, y, miner="hard", features=2, seeds=1)
    assert found == triplet_loss(x, true, miner="hard")


def test_gradient_of_triplet_watershed_by_finite_differences():
    x, y = case(12)

    def loss(x):
        generator = torch.Generator().manual_seed(1)
        return triplet_watershed_loss(x, y, miner="all", generator=generator)

    assert torch.autograd.gradcheck(loss, x.requires_grad_(), eps=1e-7, atol=1e-5)


def test_no_known_label_is_zero():
    x = torch.randn(5, 3, requires_grad=True)
    loss = triplet_watershed_loss(x, torch.full((5,), -1))
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.any()


@pytest.mark.parametrize("loss", [triplet_loss, triplet_watershed_loss, watershed_loss])
def test_autocast_changes_nothing(loss):
    x, y = torch.randn(30, 8), torch.arange(30) % 3
    torch.manual_seed(1)
    expected = loss(x, y)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(x, y)
    assert found.dtype == torch.float32
    assert found == expected


def test_modules_are_the_functions():
    x, y = case()
    assert TripletLoss(0.3, "all")(x, y) == triplet_loss(x, y, margin=0.3, miner="all")
    module = TripletWatershedLoss(0.3, generator=torch.Generator().manual_seed(1))
    function = triplet_watershed_loss(x, y, margin=0.3, generator=torch.Generator().manual_seed(1))
    assert module(x, y) == function
    expected = torch.nn.functional.cross_entropy(x, y, label_smoothing=0.1)
    assert CrossEntropy(0.1)(x, y) == cross_entropy(x, y, label_smoothing=0.1) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: triplet_loss(x, y, margin=0.0), r"margin=0\.0"),
        (lambda x, y: triplet_loss(x, y, miner="easy"), "miner='easy'"),
        (lambda x, y: TripletLoss(miner="easy"), "miner='easy'"),
        (lambda x, y: triplet_watershed_loss(x, y, features=9), "features=9 .* 4"),
        (lambda x, y: cross_entropy(x, y + 2), r"labels must be 0\.\.3, got"),
        (lambda x, y: cross_entropy(x, y, label_smoothing=1.0), r"label_smoothing=1\.0"),
    ],
)
def test_wrong_options_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(*case())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-3])
def test_hard_mining_is_that_of_exact_distances(dtype, spread):
    # Tight classes far apart: in float32 their inner distances drown in the products' rounding.
    y = torch.arange(300) % 3
    x = (spread * torch.randn(300, 20) + 10 * torch.randn(3, 20)[y]).to(dtype)
    exact = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    for found, wanted in zip(hardest(x, y), hard(exact, y, 1.0), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("different", [1, 3, 40])
def test_hard_mining_among_points_that_coincide(different):
    # Few or many of a row are the best: of equal distances the first, as of exact ones.
    y = torch.arange(240) % 4
    x = torch.randn(different, 6)[torch.arange(240) % different] + 100
    exact = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    for found, wanted in zip(hardest(x, y), hard(exact, y, 1.0), strict=True):
        assert torch.equal(found, wanted)


def test_gram_by_blocks_is_the_product():
    x = torch.randn(301, 260, dtype=torch.float64)
    d2 = squared_distances(x)
    assert torch.equal(d2, d2.T)
    unit = 2.0 ** math.floor(math.log2(x.abs().max()))
    torch.testing.assert_close(d2 * unit**2, torch.cdist(x, x) ** 2)


def test_gradients_of_many_and_of_few_columns_agree():
    x = torch.randn(40, 3, dtype=torch.float64, requires_grad=True)
    few, many = torch.randint(40, (40, 2)), torch.randint(40, (40, 3))
    many[:, :2] = few
    one = torch.autograd.grad(distances_to(x, few).sum(), x)[0]
    weight = torch.tensor([1.0, 1.0, 0.0]).double()
    two = torch.autograd.grad((distances_to(x, many) * weight).sum(), x)[0]
    torch.testing.assert_close(one, two)
