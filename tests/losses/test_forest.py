import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qact.losses import propagate
from qact.losses.classifier import pass_values
from qact.losses.distances import pairwise_distances


def ranks(d):
    """Distinct weights in the order of (d, low index, high index), symmetric, from 1 on."""
    n = len(d)
    low, high = np.triu_indices(n, 1)
    order = np.lexsort((high, low, d[low, high]))
    rank = np.zeros((n, n))
    rank[low[order], high[order]] = np.arange(1, len(order) + 1)
    return rank + rank.T


def brute_force(d, seeds):
    """Seed of each point by scipy: the spanning tree of the graph with all seeds in one vertex."""
    csgraph = pytest.importorskip("scipy.sparse.csgraph")
    n, seeds = len(d), np.asarray(seeds)
    joined = np.zeros((n + 1, n + 1))
    joined[1:, 1:] = ranks(np.asarray(d, dtype=float)) + 1
    joined[0, 1:][seeds] = joined[1:, 0][seeds] = 0.5  # lighter than any edge: always taken
    tree = csgraph.minimum_spanning_tree(joined).toarray()[1:, 1:]  # without the extra vertex
    _, component = csgraph.connected_components(tree, directed=False)
    found = np.full(n, -1)
    for seed in np.flatnonzero(seeds):
        found[component == component[seed]] = seed
    return torch.from_numpy(found)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 57, 128])
@pytest.mark.parametrize("count", [1, 3, 20])
@pytest.mark.parametrize("seed", range(4))
def test_equals_scipy_on_random_points(n, count, seed):
    generator = torch.Generator().manual_seed(seed)
    d = pairwise_distances(torch.randn(n, 5, generator=generator))
    seeds = torch.zeros(n, dtype=torch.bool)
    seeds[torch.randperm(n, generator=generator)[:count]] = True
    assert torch.equal(propagate(d, seeds), brute_force(d, seeds))


@given(
    st.integers(2, 14).flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(0, 3), min_size=n * n, max_size=n * n),
            st.lists(st.booleans(), min_size=n, max_size=n).filter(any),
        )
    )
)
def test_equals_scipy_on_tied_weights(case):
    weights, seeds = case
    n = len(seeds)
    d = torch.tensor(weights, dtype=torch.float64).view(n, n)
    d = torch.triu(d, 1) + torch.triu(d, 1).T + 1  # four values on all edges
    seeds = torch.tensor(seeds)
    assert torch.equal(propagate(d, seeds), brute_force(d, seeds))


@pytest.mark.parametrize("seed", range(5))
def test_every_point_gets_a_seed_of_least_pass_value(seed):
    # What all minimum spanning forests share, whatever the order of ties.
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(4, (40, 2), generator=generator).double()  # many duplicates and ties
    d, labels = torch.cdist(x, x), torch.arange(40) % 3
    seeds = torch.arange(40) < 6
    got = labels[propagate(d, seeds)]
    values = pass_values(d, torch.where(seeds, labels, -1), 3)
    assert torch.equal(values.gather(0, got[None])[0], values.amin(0))


def test_pass_values_are_the_largest_steps_of_the_spanning_tree():
    csgraph = pytest.importorskip("scipy.sparse.csgraph")
    d = pairwise_distances(torch.randn(30, 4, dtype=torch.float64))
    labels = torch.full((30,), -1)
    labels[:5] = torch.tensor([0, 0, 1, 1, 1])
    tree = csgraph.minimum_spanning_tree(d.numpy()).toarray()
    tree = np.maximum(tree, tree.T)
    best = np.where(tree > 0, tree, np.inf)
    np.fill_diagonal(best, 0)
    for k in range(30):  # Floyd and Warshall, with the maximum for the sum
        best = np.minimum(best, np.maximum(best[:, k, None], best[None, k]))
    for label in (0, 1):
        expected = best[labels.numpy() == label].min(0)
        assert pass_values(d, labels, 2)[label].tolist() == pytest.approx(expected.tolist())


def test_duplicates_seedless_and_separate_points():
    same = torch.zeros(4, 4)
    one = torch.tensor([False, False, True, False])
    assert propagate(same, one).tolist() == [2, 2, 2, 2]
    assert propagate(same, torch.zeros(4, dtype=torch.bool)).tolist() == [-1] * 4
    assert propagate(same, torch.ones(4, dtype=torch.bool)).tolist() == [0, 1, 2, 3]
    apart = torch.tensor([[0.0, 1, torch.inf], [1, 0, torch.inf], [torch.inf, torch.inf, 0]])
    assert propagate(apart, torch.tensor([True, False, False])).tolist() == [0, 0, -1]
    assert propagate(torch.zeros(0, 0), torch.zeros(0, dtype=torch.bool)).tolist() == []


def test_what_cannot_be_ordered_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        propagate(torch.full((2, 2), torch.nan), torch.tensor([True, False]))
    with pytest.raises(ValueError, match=r"\(N, N\).*\(2, 3\)"):
        propagate(torch.zeros(2, 3), torch.tensor([True, False]))
    with pytest.raises(ValueError, match=r"int64"):
        propagate(torch.zeros(2, 2), torch.tensor([1, 0]))
