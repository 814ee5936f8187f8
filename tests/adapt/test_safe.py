"""Safe adaptation: what it follows, what it refuses, and that drift is seen."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import qact
from qact import adapt
from qact.shift import streams


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright spot in one of three corners of noise: what is seen locally does not tell which."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (count,), generator=draw)
    x = torch.randn(count, 1, 6, 6, generator=draw)
    corners = torch.zeros(3, 1, 6, 6)
    corners[0, :, :3, :3] = corners[1, :, :3, 3:] = corners[2, :, 3:, :3] = 1.5
    return x + corners[y], y


def trained(kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    norms = {"qact": (qact.QAct, qact.QAct), "relu": (nn.BatchNorm2d, nn.BatchNorm1d)}[kind]
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), norms[0](8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3), norms[0](8), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(32, 16), norms[1](16), nn.ReLU(), nn.Linear(16, 3)),
    )
    return fitted(model, *blobs(960, 1), steps=120)


def fitted(model: nn.Sequential, x: torch.Tensor, y: torch.Tensor, *, steps: int) -> nn.Sequential:
    """Trained on batches of 64, round and round."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(steps):
        part = torch.arange(64) + 64 * (step % (len(x) // 64))
        loss = nn.functional.cross_entropy(model(x[part]), y[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


MODELS = {kind: trained(kind) for kind in ("qact", "relu")}


def score(method: adapt.Method, x: torch.Tensor, y: torch.Tensor, batch: int = 32) -> float:
    hits = [(method(a).argmax(1) == b).float() for a, b in zip(x.split(batch), y.split(batch))]  # noqa: B905
    return torch.cat(hits).mean().item()


@pytest.mark.parametrize("kind", MODELS)
def test_a_sorted_stream_does_no_harm_and_a_shift_is_followed(kind):
    model, (x, y) = MODELS[kind], blobs(480, 2)
    order = y.argsort(stable=True)
    found = {}
    for name in ("source", "batch", "safe"):
        found[name] = {
            "clean sorted": score(adapt.create(name, model), x[order], y[order]),
            "shifted": score(adapt.create(name, model), 0.4 * x + 2, y),
        }
    safe_, source, batch = found["safe"], found["source"], found["batch"]
    assert safe_["clean sorted"] >= source["clean sorted"] - 0.02
    assert batch["clean sorted"] < source["clean sorted"] - 0.2
    assert safe_["shifted"] >= source["shifted"] + 0.9 * (batch["shifted"] - source["shifted"])


def test_a_drift_that_helps_nobody_is_not_followed():
    """Noise on every pixel: a sure source says as much as what has followed, and stays."""
    model, (x, y) = MODELS["relu"], blobs(480, 2)
    model = copy.deepcopy(model)
    model[1].running_mean += 0.3  # drift is proven for every sample, and the next layers bear it
    order = y.argsort(stable=True)
    method = adapt.create("safe", model)
    source = adapt.create("source", model)
    lost = score(source, x[order], y[order]) - score(method, x[order], y[order])
    assert lost <= 0.01


def test_a_prediction_is_made_from_what_is_stored():
    method = adapt.create("safe", MODELS["qact"], every=8)
    x = blobs(32, 3)[0] + 1
    method(x)
    one = torch.cat([method.logits(s[None]) for s in x])
    torch.testing.assert_close(one, method.logits(x))
    method(x[:1])  # too little that is new
    torch.testing.assert_close(one, method.logits(x))


def test_garbage_is_not_remembered():
    method = adapt.create("safe", MODELS["qact"], every=8)
    x = blobs(32, 3)[0]
    method(x)
    before = [b.clone() for b in method.model.buffers()]
    for junk in (torch.zeros_like(x), x[-1:].expand_as(x), torch.full_like(x, torch.nan)):
        method(junk)
    assert all(torch.equal(a, b) for a, b in zip(before, method.model.buffers(), strict=True))


def test_a_black_frame_is_garbage_in_colour_too():
    """Normalised by channel, black is three different values."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3))
    method = adapt.create("safe", model.eval(), every=1)
    method(torch.randn(8, 3, 6, 6))
    before = [b.clone() for b in method.model.buffers()]
    method(torch.tensor([-2.0, -1.9, -1.7])[:, None, None].expand(8, 3, 6, 6))
    assert all(torch.equal(a, b) for a, b in zip(before, method.model.buffers(), strict=True))


def test_the_memory_holds_the_latest_of_each_class():
    method = adapt.create("safe", MODELS["relu"], capacity=9, every=4)
    for step in range(6):
        method(blobs(32, step)[0])
    assert {len(part) for part in method.memory} == {9}


@pytest.mark.parametrize("kind", MODELS)
def test_the_batch_is_predicted_from_what_was_stored_with_it(kind):
    method = adapt.create("safe", MODELS[kind], capacity=12)
    method(blobs(20, 4)[0] + 1)
    x = blobs(40, 5)[0] + 1
    x[7] = 0  # garbage gets a prediction too
    torch.testing.assert_close(method(x), method.logits(x))


@pytest.mark.own_seed  # for which the shift is hard
def test_late_layers_follow_as_soon_as_early_ones_have_shown_the_classes():
    """Under this shift the source predicts one class, and one batch is all there is."""
    found = {1: 0.0, 4: 0.0}
    for passes in found:
        for seed in range(2, 6):
            x, y = blobs(64, seed)
            method = adapt.create("safe", MODELS["relu"], passes=passes)
            found[passes] += score(method, 0.3 * x + 2, y, 64) / 4
    assert found[4] > 0.98 > found[1] + 0.02


@pytest.mark.parametrize("batch", [4, 16])
def test_a_new_domain_replaces_the_memory_and_a_new_class_does_not(batch):
    x, y = blobs(96, 6)
    method = adapt.create("safe", MODELS["relu"], every=16)
    order = y[:64].argsort(stable=True)
    for part in x[:64][order].split(batch):
        method(part)
    assert len(method.memory.samples) > 32
    for part in (x[64:] + 9).split(batch):
        method(part)
    assert len(method.memory.samples) <= 32
    assert float(method.memory.samples.mean((1, 2, 3)).min()) > 6


@pytest.mark.parametrize("kind", MODELS)
def test_one_class_is_not_followed_by_dense_layers(kind):
    torch.manual_seed(0)
    norm = {"qact": qact.QAct, "relu": nn.BatchNorm1d}[kind]
    model = nn.Sequential(nn.Linear(4, 8), norm(8), nn.ReLU(), nn.Linear(8, 3))
    for _ in range(20):
        model(torch.randn(64, 4))
    model[-1].weight.data.zero_()  # every prediction is the same class
    x = 3 * torch.randn(64, 4) + 2
    method = adapt.create("safe", model.eval())
    start = [b.clone() for b in method.model.buffers()]
    method(x)
    assert all(torch.equal(a, b) for a, b in zip(start, method.model.buffers(), strict=True))


def test_a_dense_network_that_is_fed_class_after_class_keeps_its_accuracy():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5))
    centres, y = 1.5 * torch.randn(5, 6), torch.arange(640) % 5
    x = centres[y] + torch.randn(640, 6)
    fitted(model, x, y, steps=150)
    order = y.argsort(stable=True)
    found = {
        name: score(adapt.create(name, model), x[order], y[order])
        for name in ("source", "batch", "safe")
    }
    assert found["source"] > 0.85
    assert found["batch"] < found["source"] - 0.3
    assert found["safe"] > found["source"] - 0.01


def test_drift_by_the_batch_and_by_the_method():
    model, x = MODELS["qact"], blobs(512, 4)[0]
    flags = [m.training for m in model.modules()]
    near, far = qact.drift(model, x), qact.drift(model, [2 * x[:256] + 1, 2 * x[256:] + 1])
    assert [layer.name for layer in near.layers] == ["1", "4", "8"]
    assert near.worst.ks.mean() < 0.1 < far.worst.ks.mean()
    assert far.layers[0].w1.shape == (8,)
    assert flags == [m.training for m in model.modules()]
    assert "KS mean" in str(far)
    method = adapt.create("safe", model)
    method(0.4 * x + 2)
    followed = qact.drift(method)
    assert followed.layers[0].ks.mean() > 0.1
    method.reset()
    assert float(qact.drift(method).worst.ks.max()) == 0


def test_drift_of_a_known_shift():
    layer = qact.QAct(1)
    layer(torch.linspace(0, 1, 1001)[:, None])
    found = qact.drift(nn.Sequential(layer).eval(), torch.linspace(0, 1, 1001)[:, None] + 0.5)
    assert found.layers[0].ks.item() == pytest.approx(0.5, abs=0.01)
    assert found.layers[0].w1.item() == pytest.approx(0.5 * 12**0.5, abs=0.02)


def test_drift_is_drawn():
    pytest.importorskip("matplotlib").use("Agg")
    axes = qact.drift(MODELS["qact"], blobs(64, 5)[0]).plot()
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "4", "8"]
    model = nn.Sequential(nn.Linear(4, 3), qact.QAct(3))
    model(torch.randn(64, 4))
    found = qact.drift(model, torch.randn(64, 4) + 1)
    (bar,) = found.plot().collections[0].get_segments()  # one layer has a range, too
    assert bar[:, 1].tolist() == pytest.approx([float(v) for v in found.worst.ks.aminmax()])


def test_drift_takes_what_loaders_yield_and_leaves_every_flag():
    model, (x, y) = copy.deepcopy(MODELS["qact"]), blobs(64, 4)
    want = str(qact.drift(model, x))
    model.train()[4].eval()
    flags = [m.training for m in model.modules()]
    for batches in ([(x, y)], [[x]], [{"input": x}], iter([x])):
        assert str(qact.drift(model, batches)) == want
        assert [m.training for m in model.modules()] == flags


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: qact.drift(MODELS["relu"], torch.ones(2, 4)), ValueError, "no QAct layer"),
        (lambda: qact.drift(MODELS["qact"]), ValueError, "batches=None"),
        (lambda: qact.drift("model"), TypeError, "model='model'"),
        (lambda: qact.drift(MODELS["qact"], 5), TypeError, "batches=5 must be"),
        (lambda: qact.drift(MODELS["qact"], ["x"]), TypeError, "the loader yields str"),
        (
            lambda: qact.drift(nn.Sequential(qact.QAct(4)), torch.ones(2, 4)),
            RuntimeError,
            "no data",
        ),
        (
            lambda: qact.drift(MODELS["qact"], torch.full((3, 1, 6, 6), torch.nan)),
            ValueError,
            "finite",
        ),
        (lambda: adapt.create("safe", MODELS["qact"], every=0), ValueError, "every=0"),
        (lambda: adapt.create("safe", MODELS["qact"], passes=0), ValueError, "passes=0"),
        (
            lambda: streams.stream("safe", torch.ones(1, 1, 4, 4), torch.ones(1)),
            ValueError,
            "'safe'",
        ),
    ],
)
def test_bad_input_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("kind", MODELS)
def test_the_source_beside_the_model_moves_with_it_and_shares_its_weights(kind):
    method = adapt.create("safe", MODELS[kind])
    (twin,) = method._twin
    assert all(a is b for a, b in zip(method.model.parameters(), twin.parameters(), strict=True))
    assert not {id(b) for b in method.model.buffers()} & {id(b) for b in twin.buffers()}
    assert not any("twin" in name for name in method.state_dict())
    x = 0.4 * blobs(64, 5)[0] + 2
    for _ in range(2):
        method(x)
    assert method.following
    torch.testing.assert_close(method._from_source(x), MODELS[kind](x))
    wide, x = method.double(), x.double()
    assert wide(x).dtype == torch.float64
    torch.testing.assert_close(wide._from_source(x), copy.deepcopy(MODELS[kind]).double()(x))


@pytest.mark.own_seed  # for which the source predicts one class
def test_a_sure_source_that_takes_all_for_one_class_does_not_lock():
    """Its labels show one class, as those of a stream of one class would."""
    model, (x, y) = copy.deepcopy(MODELS["relu"]), blobs(256, 7)
    model[-1].weight.data *= 3  # sure of everything
    model[-1].bias.data *= 3
    x = 0.3 * x + 2
    with torch.no_grad():
        p = model(x).softmax(1)
    assert p.argmax(1).bincount().max() > 0.95 * len(x)
    assert float(torch.special.entr(p).sum(1).mean()) < 0.1
    assert score(adapt.create("safe", model), x, y, 64) > 0.9
