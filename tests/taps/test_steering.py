"""Steering: identity where nothing is asked, planted directions recovered, files of one model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import qact
from qact.files import DamagedFileError
from qact.taps import Condition, Direction, delta, difference, fingerprint, probe


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(1), nn.Linear(6, 3),
    )  # fmt: skip
    model(torch.randn(32, 2, 6, 6))
    return model.eval()


X = torch.randn(10, 2, 6, 6, generator=torch.Generator().manual_seed(1))
V = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, -1.0])


def bits(x):
    return x.view(torch.int32)


def at(net, block, x=X, place="0.1"):
    with block, qact.tap(net, place) as seen:
        net(x)
    return seen[place]


def test_strength_zero_is_the_identity_bit_for_bit(net):
    h = net[0][1](net[0][0](X))
    h = torch.where(h.abs() < 0.2, -0.0, h)
    zeros = qact.tap(net, "0.1").change(lambda z: h)
    for strength in (0, 0.0, lambda index: 0 * index):
        with zeros:
            assert torch.equal(bits(at(net, qact.steer(net, V, "0.1", strength))), bits(h))


def test_exactly_the_direction_is_added(net):
    plain = at(net, qact.tap(net, "0.0"))
    moved = at(net, qact.steer(net, V, "0.1", -1.5))
    assert torch.equal(moved, plain - 1.5 * V[:, None, None])


def test_differences_of_means_recover_a_planted_offset_and_invert(net):
    direction = difference(net, X, X, "0.1")
    assert not direction.vectors["0.1"].any()  # identical inputs have no difference
    with qact.steer(net, V, "0.1"):
        moved = qact.tap(net, "0.1").read("mean")
        with moved:
            net(X)
    plain = qact.tap(net, "0.1").read("mean")
    with plain:
        net(X)
    torch.testing.assert_close((moved.value - plain.value).mean(0), V, atol=1e-5, rtol=1e-5)
    with qact.steer(net, V, "0.1"), qact.steer(net, V, "0.1", -1.0):  # the second takes it away
        there_and_back = net(X)
    torch.testing.assert_close(there_and_back, net(X), atol=1e-5, rtol=1e-5)
    one, two = X[:1], X[1:2]
    added = difference(net, one, two, "0.1").vectors["0.1"]
    by_hand = [net[0][1](net[0][0](x)).mean((0, 2, 3)) for x in (one, two)]
    torch.testing.assert_close(added, by_hand[0] - by_hand[1])


def test_ablation_leaves_no_component(net):
    direction = Direction({"0.1": V}, "ablate")
    moved = at(net, qact.steer(net, direction))
    assert (moved.movedim(1, -1) @ (V / V.norm())).abs().max() < 1e-5
    plain = at(net, qact.tap(net, "0.1"))
    across = torch.linalg.qr(torch.stack([V, *torch.eye(6)[:5]], 1))[0][:, 1:]
    torch.testing.assert_close(
        moved.movedim(1, -1) @ across, plain.movedim(1, -1) @ across, atol=1e-5, rtol=1e-4
    )


def test_a_concept_moves_to_its_probability_and_no_further(net):
    h = torch.randn(400, 6, generator=torch.Generator().manual_seed(2))
    labels = (h @ V + 0.3 > 0).long()
    fitted = probe(h, labels)
    direction = fitted.direction("3", target=0.8)
    w, b = direction.vectors["3"], direction.bias["3"]
    before = torch.sigmoid(h @ w + b)
    after = torch.sigmoid(direction.applied(h, "3") @ w + b)
    low = before < 0.8
    assert low.any() and (~low).any()  # noqa: PT018
    torch.testing.assert_close(after[low], torch.full((int(low.sum()),), 0.8), atol=1e-4, rtol=0)
    assert torch.equal(direction.applied(h, "3")[~low], h[~low])


def test_schedules_follow_the_samples_over_batches(net):
    ramp = qact.steer(net, V, "0.1", lambda index: 0.5 * index)
    with ramp, qact.tap(net, "0.1") as seen:
        net(X[:4]), net(X[4:])
    plain = at(net, qact.tap(net, "0.1"))
    factor = 0.5 * torch.arange(10.0)[:, None, None, None]
    torch.testing.assert_close(seen["0.1"], plain + factor * V[:, None, None])
    assert torch.equal(bits(seen["0.1"][0]), bits(plain[0]))


def test_conditions_by_their_truth_table(net):
    plain = at(net, qact.tap(net, "0.1"))
    mean = plain.mean((2, 3))
    c, d = torch.eye(6)[0], torch.eye(6)[1]
    cosine = [(mean @ v).abs() / mean.norm(dim=1) for v in (c, d)]
    one, two = (Condition(v, float(s.median())) for v, s in zip((c, d), cosine, strict=True))
    a, b = (s >= s.median() for s in cosine)
    for when, expected in (
        (one, a), (~one, ~a), (one & two, a & b), (one | ~two, a | ~b),
        (Condition(c, 0.0, lambda h: h[:, 2]), mean[:, 2] >= 0),
    ):  # fmt: skip
        moved = at(net, qact.steer(net, V, "0.1", when=when))
        assert torch.equal(bits(moved[~expected]), bits(plain[~expected]))
        torch.testing.assert_close(moved[expected], plain[expected] + V[:, None, None])


def test_projection_and_similarity_are_those_of_the_paper():
    c, h = torch.randn(5), torch.randn(7, 5)
    projected = h @ torch.outer(c, c) / (c @ c)
    by_hand = torch.cosine_similarity(h, projected)
    torch.testing.assert_close(Condition(c, 0.5).scores(h), by_hand)


def test_deltas_of_a_tuned_model(net):
    assert not delta(net, net, X, "0.1").vectors["0.1"].any()
    tuned = copy.deepcopy(net)
    with torch.no_grad():
        tuned[0][1].bias += V
    torch.testing.assert_close(delta(tuned, net, X, "0.1").vectors["0.1"], V)
    assert delta(tuned, net, X, "0.1").fingerprint == fingerprint(net)


def test_files_are_of_one_model(net, tmp_path):
    pytest.importorskip("safetensors")
    made = difference(net, X, 2 * X, ["0.1", "3"])
    made.save(tmp_path / "direction.safetensors")
    again = Direction.load(tmp_path / "direction.safetensors", net)
    assert again.vectors.keys() == made.vectors.keys()
    assert torch.equal(again.vectors["3"], made.vectors["3"])
    other = copy.deepcopy(net)
    other(2 * X + 1)
    other.train()(X)
    other.eval()
    Direction.load(tmp_path / "direction.safetensors", other)  # statistics are no weights
    with torch.no_grad():
        other[0][0].weight[0, 0, 0, 0] += 1e-6
    for use in (
        lambda: Direction.load(tmp_path / "direction.safetensors", other),
        lambda: qact.steer(other, made),
    ):
        with pytest.raises(ValueError, match="made with a model of fingerprint"):
            use()
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DamagedFileError, match="broken"):
        Direction.load(tmp_path / "broken.safetensors")
    with pytest.raises(DamagedFileError, match="nowhere"):
        Direction.load(tmp_path / "nowhere.safetensors")


REFUSALS = {
    "no place": (lambda n: qact.steer(n, V), "where=None"),
    "unknown": (lambda n: qact.steer(n, Direction({"0.1": V}), "0.2"), "place '0.2'; did you mean"),
    "channels": (lambda n: at(n, qact.steer(n, V[:4], "0.1")), "has 4 channels, the layer 6"),
    "nan": (lambda n: qact.steer(n, V * torch.nan, "0.1"), "must be .C,. and finite"),
    "strength": (lambda n: qact.steer(n, V, "0.1", float("nan")), "strength=nan"),
    "zero": (lambda n: Direction({"0.1": 0 * V}, "ablate"), "is zero, which is no direction"),
    "kind": (lambda n: Direction({"0.1": V}, "turn"), "kind='turn'"),
    "target": (lambda n: Direction({"0.1": V}, "concept", target=1.0), "target=1.0"),
    "condition": (lambda n: Condition(0 * V, 0.5), "the vector of a condition is zero"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(net, case):
    use, words = REFUSALS[case]
    with pytest.raises(ValueError, match=words):
        use(net)
