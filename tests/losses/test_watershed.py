import math

import pytest
import torch
from torch import tensor

from qact.losses import WatershedLoss, watershed_loss
from qact.losses.forest import propagate
from qact.losses.seeds import choose_seeds


def blobs(n=24, classes=3, size=5, dtype=torch.float64, spread=1.0):
    y = torch.arange(n) % classes
    x = spread * torch.randn(n, size, dtype=dtype) + 2 * torch.eye(classes, size, dtype=dtype)[y]
    return x, y


def by_the_book(x, y, seeds):
    """The formula at the head of the module, in loops, from its own propagation by Prim."""
    n = len(y)
    d = [[math.dist(a, b) for b in x.tolist()] for a in x.tolist()]
    label = {i: int(y[i]) for i in range(n) if seeds[i]}
    while len(label) < n and label:
        _, _, _, k, j = min(
            (d[k][j], min(k, j), max(k, j), k, j) for k in range(n) if k not in label for j in label
        )
        label[k] = label[j]
    correct = [i for i in label if label[i] == int(y[i])]
    terms = []
    for i in range(n):
        nearest = {}
        for j in correct:
            if j != i:
                near = nearest.get(int(y[j]), math.inf)
                nearest[int(y[j])] = min(near, d[i][j])
        if int(y[i]) in nearest:
            total = math.fsum(math.exp(-value) for value in nearest.values())
            terms.append(math.log(total) + nearest[int(y[i])])
    return sum(terms) / len(terms) if terms else 0.0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 3])
def test_equals_the_formula_in_loops(seed, count):
    torch.manual_seed(seed)
    x, y = blobs(spread=1.5)
    seeds = choose_seeds(y, count)
    loss = watershed_loss(x, y, seeds=seeds)
    assert loss.item() == pytest.approx(by_the_book(x, y, seeds), abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_gradient_by_finite_differences(seed):
    torch.manual_seed(seed)
    x, y = blobs(12)
    seeds = choose_seeds(y, 1)
    assert torch.autograd.gradcheck(
        lambda x: watershed_loss(x, y, seeds=seeds), x.requires_grad_(), eps=1e-7, atol=1e-5
    )


def test_labels_of_any_value_are_classes():
    x, y = blobs()
    seeds = choose_seeds(y, 2)
    other = tensor([7, -3, 100])[y]
    assert watershed_loss(x, y, seeds=seeds) == watershed_loss(x, other, seeds=seeds)


def test_it_is_invariant_to_shifts_and_rotations():
    x, y = blobs()
    seeds = choose_seeds(y, 1)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    moved = watershed_loss(x @ turn + 1000, y, seeds=seeds)
    assert moved.item() == pytest.approx(watershed_loss(x, y, seeds=seeds).item(), abs=1e-7)


def test_the_generator_decides_the_seeds():
    x, y = blobs(60, spread=3.0)

    def losses(seed):
        generator = torch.Generator().manual_seed(seed)
        return [watershed_loss(x, y, generator=generator).item() for _ in range(5)]

    assert losses(1) == losses(1)
    assert len(set(losses(1))) > 1
    assert losses(1) != losses(2)


# Degenerate batches: the loss, and whether any gradient is left.
DEGENERATE = {
    "one sample": (torch.randn(1, 3), tensor([0]), 0.0, False),
    "one class": (torch.randn(5, 3), tensor([2] * 5), 0.0, False),
    "one of each class": (torch.randn(3, 3), tensor([0, 1, 2]), 0.0, False),
    # Everything at distance 0 of everything: both classes are equally near.
    "all embeddings equal": (torch.ones(4, 3), tensor([0, 0, 1, 1]), math.log(2), False),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_batches_are_defined(name):
    x, y, expected, moves = DEGENERATE[name]
    x = x.clone().requires_grad_()
    loss = watershed_loss(x, y, seeds=2)  # enough that both classes are reached
    loss.backward()
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert torch.isfinite(x.grad).all()
    assert bool(x.grad.any()) == moves


def test_a_class_without_correct_samples_is_left_out():
    # The only seed is of class 0, so class 1 is propagated wrongly, all of it.
    x = tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64, requires_grad=True)
    y, seeds = tensor([0, 0, 1, 1]), tensor([True, False, False, False])
    assert propagate(torch.cdist(x, x).detach(), seeds).tolist() == [0, 0, 0, 0]
    loss = watershed_loss(x, y, seeds=seeds)
    loss.backward()
    assert loss.item() == 0  # class 0 alone is certain; class 1 has nobody to go to
    assert not x.grad.any()


def test_no_seed_at_all_is_zero():
    x, y = blobs()
    x.requires_grad_()
    loss = watershed_loss(x, y, seeds=torch.zeros(len(y), dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.any()


def test_duplicates_across_classes_have_a_finite_gradient():
    x = tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    loss = watershed_loss(x, tensor([0, 1, 1, 0]), seeds=2)
    loss.backward()
    # d to the own and the other class: 0 0, 5 0, 5 5, 0 0
    expected = (2 * math.log(2) + math.log(1 + math.exp(5.0)) + math.log(2)) / 4
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    assert torch.isfinite(x.grad).all()
    assert x.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_floats_are_computed_in_float32(dtype):
    x, y = blobs()
    narrow = x.to(dtype).requires_grad_()
    seeds = choose_seeds(y, 2)
    loss = watershed_loss(narrow, y, seeds=seeds)
    loss.backward()
    assert loss.dtype == torch.float32
    assert narrow.grad.dtype == dtype
    expected = watershed_loss(narrow.detach().double(), y, seeds=seeds)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_training_on_it_separates_classes():
    x, y = blobs(90, spread=1.0, dtype=torch.float32)
    x.requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.1)
    first = sum(watershed_loss(x, y).item() for _ in range(10)) / 10
    for _ in range(60):
        optimizer.zero_grad()
        watershed_loss(x, y).backward()
        optimizer.step()
    assert sum(watershed_loss(x, y).item() for _ in range(10)) / 10 < first / 3


def test_the_module_is_the_function():
    x, y = blobs()
    module = WatershedLoss(seeds=2, generator=torch.Generator().manual_seed(3))
    function = watershed_loss(x, y, seeds=2, generator=torch.Generator().manual_seed(3))
    assert module(x, y) == function
    assert repr(module) == "WatershedLoss(seeds=2)"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, y: watershed_loss(x[0], y), ValueError, r"\(N, D\).*got \(5,\)"),
        (lambda x, y: watershed_loss(x.long(), y), TypeError, "torch.int64"),
        (lambda x, y: watershed_loss(x, y[:3]), ValueError, r"\(24,\), got \(3,\)"),
        (lambda x, y: watershed_loss(x, y.float()), TypeError, "torch.float32"),
        (lambda x, y: watershed_loss(x, y, seeds=0), ValueError, "seeds=0"),
        (lambda x, y: watershed_loss(x, y, seeds=1.0), ValueError, r"seeds=1\.0"),
        (lambda x, y: watershed_loss(x, y, seeds=y), ValueError, "must be bool .*int64"),
        (
            lambda x, y: watershed_loss(x * torch.nan, y),
            ValueError,
            "must be finite, 24 of 24 are not",
        ),
    ],
)
def test_wrong_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(*blobs())


def test_seeds_are_per_class():
    y = tensor([0] * 10 + [1] * 5 + [2])
    for _ in range(5):
        assert [int(choose_seeds(y, 3)[y == c].sum()) for c in range(3)] == [3, 3, 1]
        assert [int(choose_seeds(y, 0.4)[y == c].sum()) for c in range(3)] == [4, 2, 1]
    counts = torch.stack([choose_seeds(y, 3) for _ in range(3000)]).double().mean(0)
    assert (counts[:10] - 0.3).abs().max() < 4 * math.sqrt(0.21 / 3000)  # each as likely
