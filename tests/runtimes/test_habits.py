"""What people do to modules: copy, save, average, checkpoint, transform, cast, move."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.checkpoint import checkpoint

from qact import LazyQAct, NormedQAct, QAct

LAYERS = {
    "relu": lambda **k: QAct(3, **k),
    "table": lambda **k: QAct(3, levels="table", smooth=False, **k),
    "normed": lambda **k: NormedQAct(3, after=True, **k),
    "paper": lambda **k: QAct.paper(3, **k),
}
layers = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def batch(n: int = 24) -> Tensor:
    return torch.randn(n, 3, 5) * 2 + 0.3


def trained(make) -> nn.Module:
    layer = make()
    for _ in range(2):
        layer(batch())
    return layer


def answers(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer.eval()(x)


def same_state(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(m == n and torch.equal(s, t) for (m, s), (n, t) in pairs)


# Copies and files


def through_state_dict(layer: nn.Module, make) -> nn.Module:
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = make()
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    return other


def through_safetensors(layer: nn.Module, make, path) -> nn.Module:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_model(layer, path / "layer.safetensors")
    other = make()
    missing, unexpected = safetensors.load_model(other, path / "layer.safetensors")
    assert not missing
    assert not unexpected
    return other


@layers
def test_copies_answer_alike_and_live_apart(make, tmp_path):
    layer = trained(make)
    x = batch(9)
    want = answers(layer, x)
    copies = [
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        through_state_dict(layer, make),
        through_safetensors(layer, make, tmp_path),
    ]
    for other in copies:
        assert torch.equal(answers(other, x), want)
        other.train()(batch() * 5)
        assert torch.equal(answers(layer, x), want)
        assert not torch.equal(answers(other, x), want)


@layers
def test_a_pickle_leaves_the_table_out(make):
    layer = trained(make)
    before = len(pickle.dumps(layer))
    answers(layer, batch())
    assert len(pickle.dumps(layer)) <= before + 64


@layers
def test_strict_loading_says_what_is_missing(make):
    state = make().state_dict()
    gone = next(k for k in state if k.endswith("mass"))
    del state[gone]
    with pytest.raises(RuntimeError, match=gone.replace(".", r"\.")):
        make().load_state_dict(state, strict=True)


# Averages


@layers
def test_averaged_models_take_the_contexts_of_their_source(make):
    model = nn.Sequential(nn.Linear(5, 5), make())
    average = AveragedModel(model)
    for _ in range(3):
        model(batch())
        average.update_parameters(model)
    assert all(map(torch.equal, average.module.buffers(), model.buffers()))
    x = batch(9)
    assert torch.equal(answers(average, x), answers(model, x))
    # It runs the average, and so moves its contexts, only where a BatchNorm is in it.
    before = copy.deepcopy(model)
    update_bn([batch() * 5 for _ in range(2)], average)
    assert same_state(model, before)
    moved = not torch.equal(answers(average, x), answers(model, x))
    assert moved == isinstance(model[1], NormedQAct)


# Gradient checkpointing


@pytest.mark.parametrize("reentrant", [True, False])
@layers
def test_a_recomputed_pass_is_not_counted_again(make, reentrant):
    layer = make()
    twin = copy.deepcopy(layer)
    for _ in range(2):
        x = batch()
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        layer(a).square().sum().backward()
        checkpoint(twin, b, use_reentrant=reentrant).square().sum().backward()
        torch.testing.assert_close(a.grad, b.grad)
    contexts = {k: v for k, v in layer.state_dict().items() if "context" in k}
    assert contexts
    assert all(torch.equal(twin.state_dict()[k], v) for k, v in contexts.items())


# torch.func


@pytest.mark.parametrize("grad", [True, False])
@layers
def test_functional_call_and_vmap_in_eval(make, grad):
    layer = trained(make).eval()
    state = {k: v.detach() for k, v in layer.state_dict().items()}
    x = torch.stack([batch(6), batch(6)])
    with torch.set_grad_enabled(grad):
        want = torch.stack([layer(part) for part in x])
        got = torch.func.vmap(lambda z: torch.func.functional_call(layer, state, (z,)))(x)
    near = 1e-5 + float(layer.stored().slack.max())  # a transform reads lines for cubics
    torch.testing.assert_close(got, want, rtol=1e-5, atol=near)


@pytest.mark.parametrize("make", [LAYERS["relu"], LAYERS["table"]], ids=["relu", "table"])
def test_gradients_per_sample_in_eval(make):
    layer = trained(make).eval()
    parameters = {k: v.detach() for k, v in layer.named_parameters()}

    def loss(parameters, z):
        return torch.func.functional_call(layer, parameters, (z[None],)).square().sum()

    x = batch(4)
    got = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for i, z in enumerate(x):
        layer.zero_grad()
        layer(z[None]).square().sum().backward()
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(got[name][i], parameter.grad, rtol=1e-4, atol=1e-4)


def test_training_under_transforms_says_why_not():
    with pytest.raises(RuntimeError, match="every slice is a context of its own"):
        torch.func.vmap(QAct(3))(torch.stack([batch(), batch()]))
    with pytest.raises(RuntimeError, match="grad lets no buffer change"):
        torch.func.grad(lambda z: QAct(3)(z).sum())(batch())


# Layouts, dtypes, devices


@pytest.mark.parametrize("training", [True, False])
@layers
def test_channels_last_stays(make, training):
    layer = trained(make).train(training)
    twin = copy.deepcopy(layer)
    x = torch.randn(4, 3, 6, 5)
    with torch.set_grad_enabled(training):
        want, got = layer(x), twin(x.to(memory_format=torch.channels_last))
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@layers
def test_casts_keep_the_context(make, dtype):
    layer = trained(make)
    x = batch(16)
    want = answers(layer, x)
    layer.to(dtype)
    assert {v.dtype for k, v in layer.state_dict().items() if k.endswith("mass")} <= {
        torch.float32,
        torch.float64,
    }
    got = answers(layer, x.to(dtype))
    assert got.dtype == dtype
    loose = {torch.float16: 0.02, torch.bfloat16: 0.2}.get(dtype, 1e-5)
    assert (got.double() - want.double()).abs().median().item() <= loose
    layer.train()(x.to(dtype).requires_grad_()).sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in layer.parameters())


@layers
def test_autocast(make):
    model = nn.Sequential(nn.Conv1d(3, 3, 1), make())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(batch())
        y.float().square().sum().backward()
    assert bool(torch.isfinite(model[0].weight.grad).all())
    layer = make()
    twin = copy.deepcopy(layer)
    x = batch().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer(x)
    if not isinstance(layer, NormedQAct):
        assert torch.equal(inside, twin(x))


@pytest.mark.parametrize("options", [{}, {"device": "meta"}])
@layers
def test_the_meta_device(make, options):
    with torch.device("meta" if not options else "cpu"):
        layer = make(**options)
    assert all(t.is_meta for t in (*layer.parameters(), *layer.buffers()))
    layer.to_empty(device="cpu")
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert same_state(layer, make())
    x = batch()
    assert torch.equal(layer(x), make()(x))


def test_a_parametrised_weight():
    class Double(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    layer = trained(LAYERS["relu"])
    x = batch(9)
    want = answers(layer, x)
    parametrize.register_parametrization(layer, "weight", Double())
    torch.testing.assert_close(answers(layer, x), 2 * want)
    with torch.no_grad():
        layer.parametrizations.weight.original.mul_(0.5)
    torch.testing.assert_close(answers(layer, x), want)
    layer.train()(x).sum().backward()
    assert layer.parametrizations.weight.original.grad is not None


@pytest.mark.parametrize("assign", [True, False])
def test_a_lazy_layer_takes_a_state(assign):
    layer = trained(LAYERS["relu"])
    lazy = LazyQAct()
    lazy.load_state_dict(layer.state_dict(), strict=True, assign=assign)
    x = batch(9)
    assert torch.equal(answers(lazy, x), answers(layer, x))
    assert type(lazy) is QAct
