"""Activation patterns and boxes of classes: mined, asked, with false alarms at their rate."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qact
from qact.activations.bounds import Bounds, certify
from qact.scores import create
from qact.taps import Boxes, Patterns


@pytest.fixture(scope="module")
def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    torch.manual_seed(0)
    order = torch.randperm(
        len(labels)
    )  # writers come one after the other: exchangeable they are not
    images, labels = torch.tensor(images).float()[order] / 16, torch.tensor(labels)[order]
    net = nn.Sequential(
        *(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10))
    )
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(120):
        part = torch.randint(900, (128,))
        optimiser.zero_grad()
        F.cross_entropy(net(images[part]), labels[part]).backward()
        optimiser.step()
    return net.eval(), images, labels


def values_of(net, x):
    with qact.tap(net, "3") as seen:
        predicted = net(x).argmax(1)
    return seen["3"], predicted


def test_a_pattern_by_hand(digits):
    net, images, labels = digits
    values, _ = values_of(net, images[:900])
    for delta in (0.8, 0.95, 1.0):
        found = Patterns(10, 48, delta).mine(values[:400], labels[:400])
        found.mine(values[400:], labels[400:900])  # batches add up
        for k in (0, 7):
            share = (values[labels[:900] == k] > 0).double().mean(0)
            expected = (share >= delta - 1e-9).int() - (share <= 1 - delta + 1e-9).int()
            assert found.required[k].int().equal(expected)
    sizes = [
        (Patterns(10, 48, d).mine(values, labels[:900]).required != 0).sum() for d in (0.7, 0.9, 1)
    ]
    assert sizes[0] > sizes[1] > sizes[2]
    whole = Patterns(10, 48, 1.0).mine(values, labels[:900])
    assert whole.violated(values, labels[:900]).max() == 0


def test_leave_one_out_is_a_fit_without_the_one(digits):
    net, images, labels = digits
    values, y = values_of(net, images[:60])[0], labels[:60]
    patterns, boxes = Patterns(10, 48, 0.9).mine(values, y), Boxes(10, 48).mine(values, y)
    violated = patterns.violated(values, y, apart=True)
    outside = boxes.outside(values, y, apart=True)
    for i in range(0, 60, 7):
        rest = torch.arange(60) != i
        one = slice(i, i + 1)
        alone = Patterns(10, 48, 0.9).mine(values[rest], y[rest])
        assert violated[i] == alone.violated(values[one], y[one])[0]
        others = values[rest][y[rest] == y[i]]
        inside = ((values[i] >= others.amin(0)) & (values[i] <= others.amax(0))).all()
        assert (outside[i] == 0) == inside


def test_boxes_by_hand(digits):
    net, images, labels = digits
    values, _ = values_of(net, images[:900])
    boxes = Boxes(10, 48).mine(values[:500], labels[:500]).mine(values[500:], labels[500:900])
    mine = values[labels[:900] == 3]
    assert boxes.low[0, 3].equal(mine.amin(0))
    assert boxes.high[0, 3].equal(mine.amax(0))
    assert boxes.outside(mine, torch.full((len(mine),), 3)).max() == 0
    above = mine.amax(0)[None] + 0.25 * (mine.amax(0) - mine.amin(0)).amax()
    assert boxes.outside(above, torch.tensor([3])).item() >= 0.25
    never = Boxes(10, 48).mine(values[:5], torch.zeros(5, dtype=torch.int64))
    assert never.outside(values[:2], torch.tensor([0, 4])).tolist()[1] == torch.inf


@pytest.mark.parametrize("name", ["activation_pattern", "outside_box"])
def test_false_alarms_and_outliers(digits, name):
    net, images, labels = digits
    score = create(name).fit(net, [(images[900:1350], labels[900:1350])])
    new, noise = score.score(images[1350:]), score.score(4 * torch.randn(300, 64))
    for rate in (0.05, 0.1, 0.2):  # 3.5 deviations of the difference of two shares of 450
        limit = score.threshold(rate)
        assert (new > limit).double().mean() < rate + 3.5 * (2 * rate * (1 - rate) / 450) ** 0.5
    assert (noise > limit).double().mean() > 0.5
    copy = create(name)
    copy.load_state_dict(score.state_dict())
    assert copy.bind(net).score(images[:20]).equal(score.score(images[:20]))


def test_bounds_of_what_shows_the_pattern_are_narrower(digits):
    net, images, labels = digits
    values, _ = values_of(net, images[:900])
    patterns = Patterns(10, 48, 0.9).mine(values, labels[:900])
    x, y = images[900:1100], labels[900:1100]
    for eps, less in ((0.1, 0.5), (0.01, 0.0)):
        plain = certify(net, x, y, eps)
        given = certify(net, x, y, eps, given={"3": patterns.within})
        assert (given.gain <= plain.gain + 1e-5).all()
        assert (plain.gain - given.gain).mean() > less
    proved = given.gain < 0
    assert 0.3 < proved.double().mean() < 0.9
    for _ in range(20):  # inputs within the radius that show the pattern keep the class
        moved = x + eps * (2 * torch.randint(2, x.shape) - 1)
        inside, predicted = values_of(net, moved)
        shows = patterns.violated(inside, y) == 0
        assert (predicted == y)[shows & proved].all()
    with pytest.raises(ValueError, match="given='7' is no module"):
        Bounds(net, {"7": patterns.within})


def test_refusals():
    with pytest.raises(ValueError, match=r"delta=0\.5 must be a share"):
        Patterns(2, 3, 0.5)
    with pytest.raises(ValueError, match="do not fit"):
        Boxes(2, 3).mine(torch.ones(4, 2), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="classes must be 0 to 1, got 5"):
        Patterns(2, 3).mine(torch.ones(1, 3), torch.tensor([5]))
    net = nn.Sequential(nn.Linear(2, 2, bias=False))
    data = [(torch.eye(2), net(torch.eye(2)).argmin(1))]
    with pytest.raises(ValueError, match="no prediction of these data is right"):
        create("outside_box").fit(net, data)
