import numpy as np
import pytest
import torch

import qact
from qact.calibration import QuantileClassifier, QuantProb
from qact.calibration.quantprob import balanced_quantiles, one_vs_rest


def blobs(n=600, classes=4, size=6, spread=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    x = spread * torch.randn(n, size, generator=generator)
    return x + 3 * torch.eye(classes, size)[y], y


@pytest.fixture(scope="module")
def trained():
    return QuantileClassifier(6, 4).fit(*blobs())


@pytest.fixture(scope="module")
def quantprob():
    return QuantProb(6, 4, steps=600).fit(*blobs())


def test_it_classifies_new_samples(trained, quantprob):
    x, y = blobs(seed=1)
    for model in (trained, quantprob):
        assert (model.predict(x) == y).double().mean() > 0.9
        probs = model.predict_proba(x)
        assert torch.allclose(probs.sum(1), torch.ones(600, dtype=torch.float64))
        assert ((model(x) >= 0) & (model(x) <= 1)).all()


def test_the_level_is_the_grounded_rank_among_the_logits_of_the_fit(trained):
    x, _ = blobs()
    logits = trained.logits(x).detach()
    new = trained.logits(blobs(50, seed=2)[0]).detach()
    for c in range(4):
        z, q = logits[:, c], new[:, c]
        weight = torch.where(z >= 0, 0.5 / (z >= 0).sum(), 0.5 / (z < 0).sum())
        rank = ((z[None] <= q[:, None]) * weight).sum(1)
        found = trained(blobs(50, seed=2)[0])[:, c]
        assert (found - rank).abs().max() < 0.02  # half of a bin's mass


def test_grounding_puts_zero_at_one_half_and_spreads_positives_above(trained):
    x, y = blobs()
    levels, logits = trained(x).detach(), trained.logits(x).detach()
    assert torch.equal(levels > 0.5 + 0.02, (logits > 0) & (levels > 0.5 + 0.02))
    right = levels.gather(1, y[:, None])[:, 0]
    positive = right[logits.gather(1, y[:, None])[:, 0] > 0]
    assert positive.mean() == pytest.approx(0.75, abs=0.05)  # uniform on (1/2, 1)


def test_the_stored_context_predicts_each_sample_alone(trained):
    x, _ = blobs(20, seed=3)
    alone = torch.cat([trained.predict_proba(one[None]) for one in x])
    assert torch.allclose(alone, trained.predict_proba(x), atol=1e-6)


def test_the_batch_context_undoes_a_scaling_of_the_logits(trained):
    x, _ = blobs(300, seed=4)
    stretched = trained.shift + (x - trained.shift) * 3
    with torch.no_grad():
        trained.linear.bias.zero_()
        with qact.adapting(trained, context="batch"):
            near = (trained(x) - trained(stretched)).abs().max()
        apart = (trained(x) - trained(stretched)).abs().max()
    assert near < 1e-3 < 0.1 < apart


def test_weights_are_the_papers_for_ten_classes():
    assert QuantileClassifier(3, 10).positive == 0.9
    assert QuantileClassifier(3, 2, positive=0.7).positive == 0.7


def test_it_is_a_module_that_can_be_stored(trained, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(trained.state_dict(), path)
    other = QuantileClassifier(6, 4).eval()
    other.load_state_dict(torch.load(path, weights_only=True))
    x, _ = blobs(30, seed=5)
    assert torch.equal(other(x), trained(x))
    again = QuantileClassifier(6, 4, seed=0).fit(*blobs())
    assert torch.equal(again.linear.weight, QuantileClassifier(6, 4).fit(*blobs()).linear.weight)


def test_few_samples_and_one_class_stay_finite():
    x, y = blobs(10)
    for model in (QuantileClassifier(6, 4, steps=50), QuantProb(6, 4, steps=20)):
        assert torch.isfinite(model.fit(x, torch.zeros_like(y)).predict_proba(x)).all()
        assert torch.isfinite(model.fit(x[:1], y[:1]).predict_proba(x)).all()


def test_balanced_quantiles_are_those_of_numpy_when_all_weigh_the_same():
    score = torch.randn(1001)
    taus = torch.linspace(0.05, 0.95, 19)
    found = balanced_quantiles(score, torch.zeros(1001), taus)
    expected = np.quantile(score.numpy(), taus.numpy(), method="interpolated_inverted_cdf")
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_positives_and_negatives_own_half_of_the_weight_each():
    score = torch.cat([torch.rand(10) + 5, torch.rand(990)])
    positive = torch.arange(1000) < 10
    low, middle, high = balanced_quantiles(score, positive, torch.tensor([0.25, 0.49, 0.75]))
    assert 0.4 < low < 0.6
    assert 0.9 < middle < 1
    assert high > 5


def test_one_vs_rest_is_scikit_learns_logistic_regression():
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = blobs(200, classes=2, spread=3.0)
    truth = torch.nn.functional.one_hot(y, 2).double()
    oracle = linear.LogisticRegression(C=1.0, tol=1e-9, max_iter=5000).fit(x.numpy(), y.numpy())
    found = one_vs_rest(x.double(), truth)[:, 1]
    assert found.tolist() == pytest.approx(oracle.decision_function(x.numpy()).tolist(), abs=1e-3)


def test_quantprob_learns_the_rank_of_the_score():
    # With the identity to learn from, P is the balanced rank of the score itself.
    x, y = blobs(800, classes=2)
    scores = torch.stack([-x[:, 0], x[:, 0]], 1)
    model = QuantProb(6, 2, steps=1500).fit(x, y, scores)
    taus = torch.arange(1, 101) / 101
    q = balanced_quantiles(scores[:, 1], (y == 1).double(), taus)
    expected = (scores[:, 1, None] > q).double().mean(1)
    assert (model(x)[:, 1].double() - expected).abs().mean() < 0.05


@pytest.mark.parametrize("make", [QuantileClassifier, QuantProb])
def test_wrong_use_is_named(make):
    x, y = blobs(20)
    with pytest.raises(ValueError, match="num_classes=1"):
        make(6, 1)
    with pytest.raises(ValueError, match=r"\(N, 6\), got \(20, 3\)"):
        make(6, 4).fit(x[:, :3], y)
    with pytest.raises((ValueError, RuntimeError), match=r"0\.\.3|smaller than num_classes"):
        make(6, 4).fit(x, y + 1)
    with pytest.raises(ValueError, match=r"scores must be \(20, 4\), got \(20, 3\)"):
        QuantProb(6, 4).fit(x, y, x[:, :3])
    with pytest.raises(ValueError, match=r"positive=1\.0"):
        QuantileClassifier(6, 4, positive=1.0)
