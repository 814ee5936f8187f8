"""Concepts and shapes: planted answers recovered, exact where a head is linear."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import qact
from qact.taps import (
    choose_layer,
    codes,
    divergence,
    intrinsic_dimension,
    massive,
    probe,
    procrustes,
    redundancy,
    tcav,
)
from qact.taps.concepts import _slopes, exchanged


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_linear_head_answers_by_the_sign_of_its_weight():
    net = nn.Sequential(nn.Identity(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[2.0, 0, 0, 0], [-2.0, 0, 0, 0]]))
    concept = drawn(60, 4) + torch.tensor([6.0, 0, 0, 0])
    random = [drawn(60, 4, seed=k) for k in range(1, 10)]  # six could not reach p = 0.05
    for target, expected in ((0, 1.0), (1, 0.0)):
        found = tcav(net, "0", target, drawn(30, 4, seed=9), concept, random)
        assert found.score == expected
        assert all(0 <= score <= 1 for score in found.random)
        assert found.p < 0.05
    nothing = tcav(net, "0", 0, drawn(30, 4, seed=9), drawn(60, 4, seed=20), random)
    assert nothing.p > 0.05


def test_scores_are_those_of_captum(tmp_path):
    concept = pytest.importorskip("captum.concept")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)
    ).eval()
    x, positive = torch.randn(60, 6), torch.randn(40, 6) + torch.eye(6)[0]
    random = [torch.randn(40, 6) for _ in range(3)]

    class Ours(concept.Classifier):
        """The probe in the place of captum's, so that the scores can be compared."""

        def __init__(self):
            pass

        def train_and_eval(self, dataloader, **options):
            pairs = [(z.flatten(1), y) for z, y in dataloader]
            z, y = torch.cat([z for z, _ in pairs]), torch.cat([y for _, y in pairs])
            self._classes = y.unique().tolist()
            weight = probe(z, (y == self._classes[1]).long()).weight
            self._weight = weight[:1] - weight[1:]  # of the first class against the second

        def weights(self):
            return torch.cat([self._weight, -self._weight])

        def classes(self):
            return self._classes

    sets = [
        concept.Concept(i, f"c{i}", torch.utils.data.DataLoader(part, 20))
        for i, part in enumerate([positive, *random])
    ]
    tested = concept.TCAV(net, ["2"], classifier=Ours(), save_path=str(tmp_path))
    theirs = tested.interpret(x, [[sets[0], other] for other in sets[1:]], target=1)
    found = [float(one["2"]["sign_count"][0]) for one in theirs.values()]
    assert found == pytest.approx(list(tcav(net, "2", 1, x, positive, random).scores), abs=0.02)
    assert min(found) > 0.5


def test_directional_derivatives_are_those_of_captum():
    attr = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2)).eval()
    x = drawn(9, 1, 6, 6)
    by = attr.LayerGradientXActivation(net, net[1], multiply_by_inputs=False)
    torch.testing.assert_close(
        _slopes(net.requires_grad_(False), "1", 1, x).float(), by.attribute(x, target=1).flatten(1)
    )


def test_exchanging_is_the_permutation_test_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    a, b = [0.9, 0.8, 0.95, 0.7], [0.5, 0.75, 0.4, 0.6, 0.55]
    other = stats.permutation_test(
        (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), vectorized=True, n_resamples=10_000
    )
    assert exchanged(a, b) == pytest.approx(other.pvalue, abs=0.01)
    assert exchanged([0.5, 0.5], [0.5, 0.5]) == 1


@pytest.mark.parametrize("dim", [2, 5])
def test_dimensions_of_a_subspace_whatever_scale_and_rotation(dim):
    points = torch.rand(1500, dim, generator=torch.Generator().manual_seed(0))
    turned = 7 * points @ torch.linalg.qr(drawn(12, dim))[0].mT
    found = intrinsic_dimension(turned)
    assert float(found.mean()) == pytest.approx(dim, rel=0.15)
    torch.testing.assert_close(found, intrinsic_dimension(points), rtol=1e-2, atol=1e-2)


def test_codes_are_constant_in_a_linear_region():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    x = drawn(50, 3)
    near = x + 1e-6 * drawn(50, 3, seed=1)
    patterns = [codes(net[0](z)) for z in (x, near)]
    assert torch.equal(*patterns)
    jacobian = [torch.autograd.functional.jacobian(net, z[0]) for z in (x, near)]
    torch.testing.assert_close(*jacobian)
    assert redundancy(torch.eye(5) > 0) == 0
    assert redundancy(torch.ones(4, 3) > 0) == 0.75


def test_shapes_are_a_metric_up_to_rotation():
    a, b, c = (drawn(40, 6, seed=k) for k in range(3))
    turn = torch.linalg.qr(drawn(6, 6, seed=9))[0]
    assert procrustes(a, a @ turn + 3) < 1e-2
    assert procrustes(a, b) == pytest.approx(procrustes(b, a))
    assert procrustes(a, c) <= procrustes(a, b) + procrustes(b, c)
    spatial = pytest.importorskip("scipy.linalg")
    x, y = (z.double() - z.double().mean(0) for z in (a, b))
    q, _ = spatial.orthogonal_procrustes(y.numpy(), x.numpy())
    assert procrustes(a, b) == pytest.approx(float((x - y @ torch.as_tensor(q)).norm()))
    wide = torch.cat([b, torch.zeros(40, 2)], 1)
    assert procrustes(a, wide) == pytest.approx(procrustes(a, b))


def test_massive_activations_are_found_and_ordinary_ones_are_not():
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Identity())
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 1, -1, 1]).reshape(4, 1, 1, 1)), net[0].bias.zero_()
    x = drawn(20, 1, 5, 5)
    for planted in (1.0, 5000.0):
        x[3, 0, 2, 2] = planted
        reading = qact.tap(net, "0").read()
        reading.run(x)
        found = massive(reading)
        assert [m.channel for m in found] == ([0, 1, 2, 3] if planted > 1 else [])
    assert [m.value for m in found] == [5000, 5000, -5000, 5000]
    assert found[0].ratio == pytest.approx(5000 / float(reading["0"].abs().median()))


def test_the_layer_of_a_planted_difference_is_chosen():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    sides = []
    for planted in (0.0, 40.0):
        observing = qact.tap(net, ["0", "1"]).observe()
        with qact.steer(net, torch.full((3,), planted), "1"):
            observing.run(drawn(500, 3))
        sides.append(dict(observing))
    name, found = choose_layer(*sides)
    assert name == "1"
    assert found["1"] == pytest.approx(math.log(2), abs=1e-6)  # apart
    assert found["0"] == pytest.approx(0, abs=1e-9)
    scipy = pytest.importorskip("scipy.spatial.distance")
    a, b = (qact.Context(1).add(drawn(4000, 1, seed=k) + k) for k in (0, 1))
    assert float(divergence(a, b)) == pytest.approx(_by_scipy(scipy, a, b), abs=0.01)


def _by_scipy(distance, a, b):
    x, y = drawn(4000, 1, seed=0), drawn(4000, 1, seed=1) + 1
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    p, q = (torch.histc(z, 64, float(low), float(high)) for z in (x, y))
    return float(distance.jensenshannon(p.numpy(), q.numpy())) ** 2


NET = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
REFUSALS = {
    "sets": (lambda: tcav(NET, "0", 0, drawn(4, 3), drawn(4, 3), [drawn(4, 3)]), "random has 1"),
    "class": (lambda: tcav(NET, "0", 5, drawn(4, 3), drawn(4, 3), [drawn(4, 3)] * 2), "target=5"),
    "layer": (lambda: tcav(NET, "7", 0, drawn(4, 3), drawn(4, 3), [drawn(4, 3)] * 2), "place '7'"),
    "few": (lambda: intrinsic_dimension(drawn(5, 2)), "more than 20 rows"),
    "same": (lambda: intrinsic_dimension(torch.zeros(30, 2)), "in the same place"),
    "samples": (lambda: procrustes(drawn(5, 2), drawn(6, 2)), "of the same samples"),
    "channels": (lambda: divergence(qact.Context(2), qact.Context(3)), "2 and 3 channels"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case):
    use, words = REFUSALS[case]
    with pytest.raises(ValueError, match=words):
        use()
