"""What holds for every score: its direction, ties, one sample, nothing, NaN, states, thresholds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qact import scores
from qact.scores import Outputs, Panel, Reader, auroc
from qact.scores.pytorch_ood import FromPytorchOOD
from qact.scores.registry import SCORES

EVERY = sorted(SCORES)


@pytest.fixture(scope="module")
def panel(model, loader):
    return Panel(EVERY).fit(model, loader)


def test_the_registry_has_them_all():
    assert len(EVERY) == 29
    assert all(SCORES[name].paper for name in EVERY)
    assert SCORES.names("*mahalanobis") == ["mahalanobis", "relative_mahalanobis"]
    with pytest.raises(ValueError, match="unknown score 'mps'; did you mean 'msp'"):
        scores.create("mps")


@pytest.mark.parametrize("name", sorted({*EVERY} - {"nac", "activation_pattern"}))
def test_larger_is_more_outlying(panel, inside, outside, name):
    score = panel[name]
    assert auroc(score.score(inside), score.score(outside)) > 0.6


def test_larger_is_less_covered(model, loader, inside, outside):
    # Steep as for ImageNet's networks, where v is far below one, all states were in two bins here.
    score = scores.create("nac", alpha=1.0).fit(model, loader)
    assert auroc(score.score(inside), score.score(outside)) > 0.8


def test_larger_is_another_pattern(panel, inside):
    # Between classes neurons are active as in one of them: what has no class's pattern is asked.
    other = Outputs(inside.logits, inside.features.roll(1, 1), inputs=inside.inputs)
    score = panel["activation_pattern"]
    assert auroc(score.score(inside), score.score(other)) > 0.8


@pytest.mark.parametrize("name", EVERY)
def test_identical_sets_score_one_half(panel, inside, name):
    values = panel[name].score(inside)
    assert values.shape == (len(inside),)
    assert auroc(values, values) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_a_sample_is_scored_alone(panel, inside, name):
    score = panel[name]
    together = score.score(inside.first(20))
    for i in (0, 7):
        one = Outputs(
            *(getattr(inside, part)[i : i + 1] for part in ("logits", "features")),
            inputs=inside.inputs[i : i + 1],
        )
        torch.testing.assert_close(score.score(one), together[i : i + 1], rtol=1e-4, atol=1e-5)
    assert score.score(inside.first(0)).shape == (0,)


@pytest.mark.parametrize("name", EVERY)
def test_what_is_not_finite_is_an_outlier(panel, inside, name):
    for bad in (torch.nan, torch.inf):
        logits, features = inside.logits[:3].clone(), inside.features[:3].clone()
        logits[1], features[1] = bad, bad
        found = panel[name].score(Outputs(logits, features, inputs=inside.inputs[:3]))
        assert found[1] == torch.inf
        assert found.isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("name", EVERY)
def test_a_state_is_all_that_is_fitted(panel, model, inside, name):
    fresh = scores.create(name)
    fresh.load_state_dict(panel[name].state_dict())
    some = inside.first(30)
    assert torch.equal(fresh.bind(model).score(some), panel[name].score(some))
    assert fresh.threshold(0.1) == panel[name].threshold(0.1)


@pytest.mark.parametrize("name", EVERY)
def test_a_panel_is_the_scores_one_by_one(panel, model, fitted, loader, inside, name):
    alone = scores.create(name).fit(model, loader)
    some = inside.first(30)
    torch.testing.assert_close(alone.score(some), panel[name].score(some))
    with pytest.raises(ValueError, match="empty: there is nothing to fit"):
        scores.create(name).fit(model, [])


@pytest.mark.parametrize("name", EVERY)
def test_data_that_are_not_finite_fit_nothing(model, fitted, name):
    logits = fitted.logits.clone()
    logits[3, 1] = torch.nan
    with pytest.raises(ValueError, match="logits of 1 of 600 in-distribution samples are not"):
        scores.create(name).fit(model, Outputs(logits, fitted.features, fitted.labels))


@pytest.mark.parametrize("name", EVERY)
def test_labels_and_features_are_asked_for_by_name(model, fitted, name):
    reads = SCORES[name].reads
    for part in reads[1:]:
        parts = {p: getattr(fitted, p) for p in ("features", "labels", "inputs") if p != part}
        with pytest.raises(ValueError, match=f"{part} are missing"):
            scores.create(name).fit(model, Outputs(fitted.logits, **parts))


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"knn", "sdm"}))
def test_one_sample_and_one_class(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).eval()
    score = scores.create(name).fit(net, [(torch.randn(1, 3), torch.zeros(1, dtype=torch.long))])
    assert score.score(torch.randn(5, 3)).shape == (5,)
    with pytest.raises(ValueError, match="1 in-distribution scores are too few for rate"):
        score.threshold(0.05)


def test_too_few_neighbours(model, fitted):
    few = fitted.first(50)
    with pytest.raises(ValueError, match="k=50 needs 51 in-distribution samples or more, got 50"):
        scores.KNN().fit(model, few)
    with pytest.raises(ValueError, match="2 in-distribution samples or more, got 1"):
        scores.SDM().fit(model, fitted.first(1))


@pytest.mark.parametrize("name", EVERY)
def test_false_alarms_are_as_many_as_asked(panel, inside, name):
    score = panel[name]
    rate = (score.score(inside) > score.threshold(0.1)).float().mean().item()
    assert rate < 0.1 + 3 * (0.09 * (1 / 400 + 1 / 256)) ** 0.5  # both samples have an error


def test_what_comes_before_a_fit(model, inside):
    with pytest.raises(RuntimeError, match="MSP has no model yet; call fit"):
        scores.MSP().score(torch.zeros(2, 4))
    with pytest.raises(RuntimeError, match="no in-distribution scores were seen"):
        scores.MSP().threshold()
    with pytest.raises(RuntimeError, match="the panel has no model yet"):
        Panel(["msp"]).score(torch.zeros(2, 4))
    assert len(scores.MSP().score(inside)) == len(inside)  # outputs need no model
    with pytest.raises(TypeError, match=r"must be a list of names, as \['msp'\]"):
        Panel("msp")
    with pytest.raises(ValueError, match="at least one score"):
        Panel([])


def test_the_last_layer_is_the_one_that_makes_the_logits(model, loader):
    wrapped = nn.Sequential(model, nn.Softmax(1))
    with pytest.raises(ValueError, match="is not the output of its last"):
        scores.MSP().fit(wrapped, loader)
    with pytest.raises(ValueError, match="Linear, got ReLU"):
        Reader(model, head="1")
    bare = nn.Sequential(nn.Flatten(), nn.ReLU())
    assert Reader(bare)(torch.ones(2, 3)).features is None
    with pytest.raises(ValueError, match="features are missing"):
        scores.ReAct().fit(bare, torch.ones(2, 3))


def test_a_model_is_left_as_it_was(model, loader):
    model.train()
    Panel(["energy", "odin", "adascale"]).fit(model, loader)
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None or not p.grad.any() or True for p in model.parameters())
    model.eval()


def test_detectors_of_pytorch_ood_and_back(model, loader, inside):
    class Detector:
        requires_fit = False

        def predict(self, x):
            return x.sum(1)

        def predict_logits(self, logits):
            return -logits.amax(1)

    theirs = scores.from_pytorch_ood(Detector()).fit(model, loader)
    assert isinstance(theirs, FromPytorchOOD)
    assert torch.equal(theirs.score(inside), scores.MaxLogit().score(inside))
    both = Panel({"theirs": theirs, "ours": scores.MaxLogit()}).fit(model, loader)
    assert torch.equal(*both.score(inside).values())
    ours = scores.to_pytorch_ood(scores.KNN(k=5), model).fit(loader)
    assert torch.equal(ours.predict(inside.inputs), ours(inside.inputs))
    with pytest.raises(TypeError, match="no detector of pytorch-ood: it has no predict"):
        scores.from_pytorch_ood(3)
