"""The common detectors against pytorch-ood, on the same features and logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qact import scores
from qact.scores import Outputs, auroc

theirs = pytest.importorskip("pytorch_ood.detector")


def draw(count, seed):
    return torch.randn(count, 32, generator=torch.Generator().manual_seed(seed)).abs()


torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(32, 5))  # features are the inputs
FIT, IN, OUT = (
    Outputs(MODEL(a).detach(), a, torch.arange(len(a)) % 5)
    for a in (
        draw(1000, 0),
        draw(400, 1),
        1.2 * draw(400, 2) + 0.1,
    )
)
W, B = MODEL[0].weight.detach(), MODEL[0].bias.detach()


def maps(a):
    """Feature maps of one pixel, as its shaping detectors take them."""
    return a[:, :, None, None]


def head(z):
    return MODEL(z.flatten(1)).detach()


PAIRS = {
    "msp": lambda: theirs.MaxSoftmax(None),
    "max_logit": lambda: theirs.MaxLogit(None),
    "energy": lambda: theirs.EnergyBased(None),
    "gen": lambda: theirs.GEN(None),
    "kl_matching": lambda: theirs.KLMatching(None),
    "mahalanobis": lambda: theirs.Mahalanobis(None),
    "relative_mahalanobis": lambda: theirs.RMD(None),
    "vim": lambda: theirs.ViM(None, d=16, w=W, b=B),
    "knn": lambda: theirs.KNN(None, k=50),
    "dice": lambda: theirs.DICE(None, w=W, b=B, p=0.9),
}


@pytest.mark.parametrize("name", PAIRS)
def test_same_order(name):
    ours = scores.create(name).fit(MODEL, FIT)
    peer = scores.from_pytorch_ood(PAIRS[name]()).fit(MODEL, FIT)
    a, b = (auroc(s.score(IN), s.score(OUT)) for s in (ours, peer))
    assert a == pytest.approx(b, abs=1e-3)


@pytest.mark.parametrize(
    ("ours", "peer"),
    [
        (scores.ReAct(0.9), lambda: theirs.ReAct(maps, head, percentile=0.9)),
        (scores.ASH(0.65, "s"), lambda: theirs.ASH(maps, head, percentile=0.65, variant="ash-s")),
        (scores.ASH(0.65, "b"), lambda: theirs.ASH(maps, head, percentile=0.65, variant="ash-b")),
        (scores.ASH(0.65, "p"), lambda: theirs.ASH(maps, head, percentile=0.65, variant="ash-p")),
        (scores.SCALE(0.85), lambda: theirs.SCALE(maps, head, percentile=0.85)),
    ],
)
def test_same_values_of_shaped_features(ours, peer):
    ours.fit(MODEL, FIT)
    detector = peer()
    if detector.requires_fit:
        detector.to("cpu").fit([(FIT.features, FIT.labels)])
    torch.testing.assert_close(
        ours.score(OUT), detector.predict(OUT.features), rtol=1e-4, atol=1e-4
    )
