"""Accuracy without labels: right where the shift is what each estimate supposes; the guard."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qact
from qact.monitor import Guard, Monitor, Suggestion, accuracy, record


class Logits(nn.Module):
    """Two classes whose logits are the input, so that a test knows every confidence."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2, eps=0)

    def forward(self, x):
        return self.norm(x)


def batch(n: int, seed: int, calm: float = 1.0):
    """Gaussian margins; labels are drawn by the model's own probabilities: it is calibrated."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.stack([calm * torch.randn(n, generator=draw).abs() * 2, torch.zeros(n)], 1)
    labels = (torch.rand(n, generator=draw) > x.softmax(1)[:, 0]).long()
    return x, labels


@pytest.fixture(scope="module")
def model():
    return Logits().eval()


@pytest.fixture(scope="module")
def reference(model):
    return record(model, [batch(4000, 0)], draws=99)


def window(model, x):
    monitor = Monitor(model, window=len(x))
    with monitor, torch.no_grad():
        model(x)
    return monitor.windows[0]


def test_without_shift_all_say_the_accuracy_of_the_source(model, reference):
    x, labels = batch(2000, 1)
    found = accuracy.estimate(reference, window(model, x))
    truth = (model(x).argmax(1) == labels).double().mean().item()
    assert found == pytest.approx(dict.fromkeys(("atc", "doc", "weighted"), truth), abs=0.03)


def test_a_calibrated_model_that_grows_unsure_is_told(model, reference):
    x, labels = batch(4000, 2, calm=0.4)
    truth = (model(x).argmax(1) == labels).double().mean().item()
    source = reference.hits.double().mean().item()
    assert truth < source - 0.1
    found = accuracy.estimate(reference, window(model, x))
    for name in ("doc", "weighted"):
        assert found[name] == pytest.approx(truth, abs=0.03), name
    assert found["atc"] < source - 0.1  # it is biased here: a threshold sees shares, not sizes


def test_the_formulas_by_hand(model, reference):
    x, _ = batch(3000, 3, calm=0.7)
    confidence = model(x).softmax(1).amax(1)
    own, hits = reference.confidence, reference.hits
    threshold = own.sort().values[int((~hits).sum()) - 1]
    seen = window(model, x)
    found = accuracy.estimate(reference, seen)
    bin_ = (seen.context("confidence").mass.max() / len(x)).item()  # a threshold may halve a bin
    assert found["atc"] == pytest.approx((confidence > threshold).double().mean().item(), abs=bin_)
    doc = hits.double().mean() - own.double().mean() + confidence.double().mean()
    assert found["doc"] == pytest.approx(doc.item(), abs=1e-3)


def test_labels_are_needed(model):
    bare = record(model, batch(64, 0)[0], draws=19)
    with pytest.raises(ValueError, match="needs labels"):
        accuracy.estimate(bare, window(model, batch(64, 1)[0]))


def test_the_guard_adapts_while_the_alarm_stands_and_never_else():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    monitor = Monitor(net, record(net, torch.randn(512, 4), draws=199), window=32)
    with pytest.raises(ValueError, match="no alarm to wait for"):
        Guard(monitor)
    monitor.alarm(rate=0.01)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with monitor:  # hooks that a copy has copies of must not count its calls
        served = Guard(monitor, "tent", lr=0.1)
    calm, far = torch.randn(32, 4), torch.randn(32, 4) + 4
    with monitor:
        assert torch.equal(served(calm), net(calm))
        seen = sum(w.seen for w in monitor.windows)
        served(calm)
        assert sum(w.seen for w in monitor.windows) == seen + 32
        first = served(far)
        assert served.adapting
        assert not torch.equal(first, net(far))
        second = served(far)
        assert not torch.equal(first, second)  # it has learnt
        while served.adapting:
            served(torch.randn(32, 4))
        assert torch.equal(served(calm), net(calm))
        served.method.reset()
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.own_seed  # for which the batch is what is suggested
def test_a_guard_of_suggestions_follows_each_of_them(monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    monitor = Monitor(net, record(net, torch.randn(512, 4), draws=199), window=32)
    monitor.alarm(rate=0.01)
    far = torch.randn(32, 4) + 4
    by_hand = {}
    for name in ("batch", "safe"):
        with qact.adapt.create(name, net) as method:
            by_hand[name] = method(far)
    by_hand |= {"recalibrate": by_hand["safe"], "source": net(far), "retrain": net(far)}
    with monitor:
        served = Guard(monitor, "suggested")
        assert served.method is None  # no window has closed yet
        served(far)
        assert monitor.suggestion().action == "batch"
        assert served.adapting
        served.method.reset()
        assert torch.equal(served(far), by_hand["batch"])
        for action, expected in by_hand.items():
            for method in served._methods.values():
                method.reset()
            said = Suggestion(action, "by hand", {})
            monkeypatch.setattr(monitor, "suggestion", lambda rate=None, said=said: said)
            assert torch.equal(served(far), expected), action
            assert served.adapting == (action not in ("source", "retrain"))
