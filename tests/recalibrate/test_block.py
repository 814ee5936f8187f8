"""`record` and `recalibrated`: what they store, change, and leave behind; what they refuse."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import qact
from qact import Context
from qact.recalibrate import attach, remove
from qact.recalibrate.sites import sites


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(torch.relu(self.norm(x)).mean(1))


class FusedNorm(nn.BatchNorm2d):
    """Norm and activation in one layer, as in timm's BatchNormAct2d."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


def convolutional(norm):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), norm(8), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip


NETWORKS = {
    "batch": (lambda: convolutional(nn.BatchNorm2d), (3, 8, 8)),
    "group": (lambda: convolutional(lambda c: nn.GroupNorm(2, c)), (3, 8, 8)),
    "fused": (lambda: convolutional(FusedNorm), (3, 8, 8)),
    "instance": (lambda: convolutional(lambda c: nn.InstanceNorm2d(c, affine=True)), (3, 8, 8)),
    "layer": (Tokens, (7, 6)),
    "dense": (lambda: nn.Sequential(nn.Linear(5, 9), nn.BatchNorm1d(9), nn.ReLU()), (5,)),
}


def made(kind="batch", n=300):
    build, shape = NETWORKS[kind]
    model, x = build(), torch.randn(n, *shape)
    model(x)
    return model.eval(), x


@pytest.mark.parametrize("kind", NETWORKS)
def test_identity_on_source_data(kind):
    model, x = made(kind)
    plain = model(x)
    qact.record(model, x.split(60))
    for context in ("batch", "mixed", "running"):
        with qact.recalibrated(model, context), torch.no_grad():
            inside = model(x)
        assert (inside - plain).abs().max() < 0.05 * plain.abs().max()
    assert torch.equal(model(x), plain)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("context", ["batch", "mixed", "running"])
def test_single_samples_and_freaks_are_never_nan(kind, context):
    model, x = made(kind, 50)
    qact.record(model, [x])
    with torch.no_grad(), qact.recalibrated(model, context):
        for batch in (x[:1], x[:1] * 0, x[:2] * 1e15, -x[:3], torch.full_like(x[:1], 3.0)):
            assert torch.isfinite(model(batch)).all()


def test_exact_recovery_of_an_increasing_shift_at_a_hidden_layer():
    class Shift(nn.Module):
        on = False

        def forward(self, z):
            return torch.sinh(1.5 * z) + 0.3 * z if self.on else z

    shift = Shift()
    model = nn.Sequential(nn.Linear(4, 16), shift, nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3))
    model[2] = nn.BatchNorm1d(16)
    x = torch.randn(2000, 4)
    for _ in range(30):
        model(x)
    model.eval()
    plain = model(x)
    qact.record(model, x.split(500), bins=512)
    shift.on = True
    broken = (model(x) - plain).abs().mean()
    with torch.no_grad(), qact.recalibrated(model):
        repaired = (model(x) - plain).abs().mean()
    with torch.no_grad(), qact.adapting(model):
        normed = (model(x) - plain).abs().mean()
    assert repaired < 0.005 * plain.abs().mean() + 0.002
    assert repaired < 0.1 * normed < 0.1 * broken


def test_names_and_strict_loading(tmp_path):
    model, x = made()
    before = list(model.state_dict())
    parameters = dict(model.named_parameters())
    assert qact.record(model, [x]) is model
    after = list(model.state_dict())
    assert [n for n in after if "source_context" not in n] == before
    assert dict(model.named_parameters()).keys() == parameters.keys()
    path = tmp_path / "model.pt"
    torch.save(model.state_dict(), path)
    fresh = attach(NETWORKS["batch"][0]()).eval()
    fresh.load_state_dict(torch.load(path, weights_only=True), strict=True)
    with torch.no_grad(), qact.recalibrated(model) as a, qact.recalibrated(fresh) as b:
        assert torch.equal(a(2 * x), b(2 * x))
    with pytest.raises(RuntimeError, match=r"source_context\.mass"):
        NETWORKS["batch"][0]().load_state_dict(model.state_dict())
    assert list(remove(model).state_dict()) == before


def test_a_context_takes_a_kilobyte_per_channel():
    model, x = made()
    qact.record(model, [x])
    context = model[1].source_context
    size = sum(b.numel() * b.element_size() for b in context.buffers())
    assert 8 * 128 * 8 < size < 1.05 * 8 * 128 * 8 + 64


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_keep_their_contexts(copied):
    model, x = made()
    twin = copied(qact.record(model, [x]))
    with torch.no_grad(), qact.recalibrated(model), qact.recalibrated(twin):
        assert torch.equal(model(x + 1), twin(x + 1))


def trace(model):
    found = {}
    for name, module in model.named_modules():
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        found[name] = (hooks, sorted(module.__dict__), module.training, sorted(module._modules))
    return found


@pytest.mark.parametrize("context", ["batch", "mixed", "running"])
def test_nothing_is_left_behind(context):
    model, x = made()
    qact.record(model, [x])
    before, state = trace(model), {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), qact.recalibrated(model, context):  # noqa: PT012
        model(3 * x)
        raise KeyboardInterrupt
    assert trace(model) == before
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_blocks_nest():
    model, x = made()
    qact.record(model, [x])
    x = x[:20] * 3
    plain = model(x)
    with torch.no_grad(), qact.recalibrated(model, "batch"):
        outer = model(x)
        with qact.recalibrated(model, "mixed", prior=1e7):
            assert (model(x) - plain).abs().max() < 0.1 * plain.abs().max()
        assert torch.equal(model(x), outer)
    assert not torch.allclose(outer, plain, atol=1e-2)


def test_a_running_block_starts_afresh():
    model, x = made()
    qact.record(model, [x])
    seen = []
    for _ in range(2):
        with torch.no_grad(), qact.recalibrated(model, "running"):
            seen.append([model(2 * x[i : i + 4]) for i in range(0, 12, 4)])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    with torch.no_grad(), qact.recalibrated(model, "running"):
        first, again = model(2 * x[:4]), model(2 * x[:4])
    assert not torch.equal(first, again)


def test_training_mode_is_left_alone():
    model, x = made("layer")
    qact.record(model, [x])
    model.train()
    plain = model(3 * x)
    with qact.recalibrated(model):
        assert torch.equal(model(3 * x), plain)


def chosen(model, where):
    return [site.name for site in sites(model, where)]


def test_where():
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, 4, 1))
    model.add_module("norm1", nn.BatchNorm2d(4))
    model.add_module("norm2", nn.GroupNorm(2, 4))
    model.add_module("own", qact.NormedQAct(4))
    assert chosen(model, None) == ["norm1", "norm2"]
    assert chosen(model, "norm1") == ["norm1"]
    assert chosen(model, "norm*") == ["norm1", "norm2"]
    assert chosen(model, nn.GroupNorm) == ["norm2"]
    assert chosen(model, (nn.Conv2d, nn.GroupNorm)) == ["stem", "norm2"]
    assert chosen(model, lambda module, name: name == "stem") == ["stem"]
    x = torch.randn(20, 3, 4, 4)
    model(x)
    qact.record(model, [x], where="norm2")
    assert isinstance(model.norm2.source_context, Context)
    assert not hasattr(model.norm1, "source_context")
    with qact.recalibrated(model.eval()):
        model(x)
    with (
        pytest.raises(RuntimeError, match="'norm1' has no recorded"),
        qact.recalibrated(model, where="norm1"),
    ):
        pass


def test_the_root_module_and_modes():
    norm = nn.BatchNorm1d(3)
    qact.record(norm.train(), [torch.randn(40, 3)])
    assert norm.training
    assert int(norm.num_batches_tracked) == 0
    assert int(norm.source_context.count[0]) == 40


@pytest.mark.parametrize(
    ("batch", "calls"),
    [(lambda x: x, 1), (lambda x: (x, 0), 1), (lambda x: [x], 1), (lambda x: {"x": x}, 1)],
)
def test_forms_of_batches(batch, calls):
    model, x = made("layer")
    qact.record(model, [batch(x)])
    assert int(model.norm.source_context.count[0]) == x.shape[0] * x.shape[1]


def refused(model, error, match, loader, **options):
    before, state = trace(model), list(model.state_dict())
    with pytest.raises(error, match=match):
        qact.record(model, loader, **options)
    assert trace(model) == before
    assert list(model.state_dict()) == state


def test_bad_input_to_record_leaves_the_model_as_it_was():
    model, x = made()
    refused(model, ValueError, "loader is empty", [])
    refused(model, ValueError, "has no layer 'bn7'.*BatchNorm2d", [x], where="bn7")
    refused(model, TypeError, "where=3", [x], where=3)
    refused(model, TypeError, "'2' is a ReLU", [x], where=nn.ReLU)
    refused(model, TypeError, "yields str", ["words"])
    refused(model, ValueError, "at layer '1'.*nan", [x, x * float("nan")])
    refused(model, ValueError, "bins=2", [x], bins=2)
    refused(model, RuntimeError, "size", [x, torch.randn(4, 1, 8, 8)])
    bare = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    refused(bare, ValueError, "has no BatchNorm.*its layers are Linear, ReLU", [torch.randn(3, 3)])
    unused = Tokens()
    unused.spare = nn.BatchNorm1d(3)
    refused(unused, RuntimeError, "never called: spare", [torch.randn(5, 7, 6)])


def test_bad_input_to_recalibrated():
    model, x = made()
    with pytest.raises(RuntimeError, match=r"qact\.record"), qact.recalibrated(model):
        pass
    attach(model)
    with pytest.raises(RuntimeError, match="layer '1' has no recorded"), qact.recalibrated(model):
        pass
    qact.record(model, [x])
    for options, match in [
        ({"context": "frozen"}, "context='frozen'"),
        ({"prior": 3.0}, "prior=3.0 has no part"),
        ({"context": "mixed", "prior": 0}, "prior=0"),
        ({"shape": 2}, "shape=2"),
        ({"context": "running", "memory": 0}, "memory=0"),
        ({"where": "nothing"}, "has no layer 'nothing'"),
    ]:
        with pytest.raises(ValueError, match=match), qact.recalibrated(model, **options):
            pass


def test_contexts_of_another_architecture_are_refused():
    model, x = made()
    state = qact.record(model, [x]).state_dict()
    other = attach(convolutional(nn.BatchNorm2d))
    other[1] = nn.BatchNorm2d(16)
    attach(other)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    found = {k: v for k, v in state.items() if "source_context" in k}
    with pytest.raises(RuntimeError, match=r"source_context\.mass has shape \(8, 128\)"):
        other.load_state_dict(found, strict=False)
    assert all(torch.equal(before[k], v) for k, v in other.state_dict().items())
    model[1].source_context = Context(5).add(torch.randn(9, 5))
    with pytest.raises(ValueError, match=r"at layer '1'.*5 channels"), qact.recalibrated(model):
        model(x)


@pytest.mark.parametrize("inputs", [False, True])
def test_a_state_says_itself_where_its_contexts_belong(inputs):
    def build():
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()

    x = torch.randn(64, 4)
    model = qact.record(build(), [x], bins=32, inputs=inputs, where=None if inputs else nn.Linear)
    state = model.state_dict()
    fresh = attach(attach(build(), where="1"), state)
    kept = fresh[1].source_context
    del fresh[1].source_context
    fresh.load_state_dict(state)
    assert kept.bins == 128
    assert set(fresh.state_dict()) == set(state)
    if not inputs:
        with qact.recalibrated(model), qact.recalibrated(fresh):
            assert torch.equal(model(2 * x), fresh(2 * x))


def test_a_module_that_is_recorded_whole_finds_its_context_again():
    x = torch.randn(64, 8)
    state = qact.record(nn.BatchNorm1d(8), [x], bins=32).state_dict()
    assert attach(nn.BatchNorm1d(8), state).load_state_dict(state).missing_keys == []


def test_states_that_are_not_of_this_model():
    state = qact.record(nn.Sequential(nn.BatchNorm1d(8)), [torch.randn(64, 8)]).state_dict()
    with pytest.raises(ValueError, match="context of '0'; BatchNorm1d has no such layer"):
        attach(nn.BatchNorm1d(8), state)
    with pytest.raises(ValueError, match="holds no recorded context"):
        attach(nn.BatchNorm1d(8), nn.BatchNorm1d(8).state_dict())


def test_a_model_pickled_within_a_block_is_plain():
    model, x = made()
    qact.record(model, [x])
    plain = model(2 * x)
    with qact.recalibrated(model):
        mapped, loaded = model(2 * x), pickle.loads(pickle.dumps(model))
        assert torch.equal(loaded(2 * x), plain)
        assert not torch.equal(mapped, plain)
    with qact.recalibrated(loaded):
        assert torch.equal(loaded(2 * x), mapped)
