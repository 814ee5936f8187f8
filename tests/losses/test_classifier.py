import pytest
import torch
from torch import tensor

from qact.losses import WatershedClassifier, propagate
from qact.losses.distances import pairwise_distances
from qact.losses.seeds import choose_seeds


def blobs(n=90, classes=3, size=6, spread=1.0):
    y = torch.arange(n) % classes
    return spread * torch.randn(n, size) + 4 * torch.eye(classes, size)[y], y


@pytest.mark.parametrize("method", ["nearest", "prototype", "watershed"])
def test_it_classifies_and_its_rows_are_probabilities(method):
    x, y = blobs()
    new, truth = blobs(60)
    model = WatershedClassifier(method).fit(x, y)
    probs = model.predict_proba(new)
    assert probs.shape == (60, 3)
    assert torch.allclose(probs.sum(1), torch.ones(60, dtype=torch.float64))
    assert (model.predict(new) == truth).double().mean() > 0.95


@pytest.mark.parametrize("method", ["nearest", "prototype", "watershed"])
def test_a_sample_is_predicted_alone(method):
    x, y = blobs(spread=2.0)
    new, _ = blobs(40, spread=2.0)
    model = WatershedClassifier(method, generator=torch.Generator().manual_seed(0)).fit(x, y)
    together = model.predict_proba(new)
    alone = torch.cat([model.predict_proba(one[None]) for one in new])
    assert torch.allclose(together, alone, atol=1e-12)


def test_nearest_is_scikit_learns_first_neighbour():
    neighbors = pytest.importorskip("sklearn.neighbors")
    x, y = blobs(spread=3.0)
    new, _ = blobs(50, spread=3.0)
    oracle = neighbors.KNeighborsClassifier(1).fit(x.numpy(), y.numpy())
    found = WatershedClassifier("nearest").fit(x, y).predict(new)
    assert found.tolist() == oracle.predict(new.numpy()).tolist()


def test_prototype_is_the_softmax_of_minus_the_distance_to_the_means():
    x, y = blobs()
    new, _ = blobs(10)
    means = torch.stack([x[y == c].mean(0) for c in range(3)])
    expected = (-torch.cdist(new, means)).softmax(1)
    found = WatershedClassifier("prototype").fit(x, y).predict_proba(new)
    assert torch.allclose(found.float(), expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_one_flood_is_the_watershed_of_the_stored_samples_and_the_new_one(seed):
    torch.manual_seed(seed)
    x, y = blobs(60, spread=2.5)
    new, _ = blobs(30, spread=2.5)
    generator = torch.Generator().manual_seed(4)
    seeds = choose_seeds(y, 2, generator=torch.Generator().manual_seed(4))
    found = WatershedClassifier(seeds=2, repeats=1, generator=generator).fit(x, y).predict(new)
    for one, label in zip(new, found, strict=True):
        d = pairwise_distances(torch.cat([x, one[None]]).double())
        reached = propagate(d, torch.cat([seeds, tensor([False])]))
        assert y[reached[-1]] == label


def test_a_new_sample_may_hang_on_another_than_its_nearest(monkeypatch):
    # Seeds at -6 (class 1), 5.5 (0) and 7.5 (1). Alone, the sample at -2 goes to -6 in a step of 4;
    # 0 is nearest to it, but reaches 5.5 over 2.5 in steps of 2.5 and 3, and 7.5 from there by 2.
    x = tensor([-6.0, -2.0, 2.5, 5.5, 7.5])[:, None]
    seeds = tensor([True, False, False, True, True])
    monkeypatch.setattr("qact.losses.classifier.choose_seeds", lambda *_, **__: seeds)
    model = WatershedClassifier(repeats=1).fit(x, tensor([1, 1, 0, 0, 1]))
    assert model.predict(tensor([[0.0]])).tolist() == [0]


def test_stored_labels_decide_when_every_sample_is_a_seed():
    x, y = blobs(spread=3.0)
    model = WatershedClassifier(seeds=1000, repeats=1).fit(x, y)
    assert torch.equal(model.predict(x), y)


def test_equal_embeddings_and_one_class_are_defined():
    same = WatershedClassifier(repeats=2).fit(torch.ones(6, 2), tensor([0, 1, 0, 1, 0, 1]))
    probs = same.predict_proba(torch.zeros(3, 2))
    assert torch.isfinite(probs).all()
    one = WatershedClassifier().fit(torch.randn(4, 2), torch.zeros(4, dtype=torch.long))
    assert one.predict_proba(torch.randn(3, 2)).tolist() == [[1.0]] * 3
    assert one.predict_proba(torch.randn(0, 2)).shape == (0, 1)


def test_wrong_use_is_named():
    x, y = blobs()
    with pytest.raises(RuntimeError, match="call fit"):
        WatershedClassifier().predict(x)
    with pytest.raises(ValueError, match=r"none missing, got \[0, 2\]"):
        WatershedClassifier().fit(x, torch.where(y == 1, 2, y))
    with pytest.raises(ValueError, match=r"\(M, 6\), got \(90, 3\)"):
        WatershedClassifier().fit(x, y).predict(x[:, :3])
    with pytest.raises(ValueError, match="method='knn'"):
        WatershedClassifier("knn")
