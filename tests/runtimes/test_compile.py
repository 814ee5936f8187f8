"""``torch.compile(fullgraph=True)`` and ``torch.export``: one graph, the same numbers."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import warn_once_cache as warned

from qact import NormedQAct, QAct
from qact.kernels import recall

LAYERS = {
    "relu": lambda: QAct(3),
    "continuous": lambda: QAct(3, grounded="continuous"),
    "step": lambda: QAct(3, levels="steps", smooth=False),
    "table": lambda: QAct(3, levels="table"),
    "tokens": lambda: QAct(3, dim=-1, levels="gelu", grounded=False),
    "normed": lambda: NormedQAct(3, after=True),
    "paper": lambda: QAct.paper(3),
}
GENERAL = ("step", "table", "tokens")
layers = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def batch(layer: nn.Module, n: int = 24) -> Tensor:
    return torch.randn((n, 5, 3) if getattr(layer, "dim", 1) == -1 else (n, 3, 5)) * 2 + 0.3


def trained(make) -> nn.Module:
    layer = make()
    for _ in range(2):
        layer(batch(layer))
    return layer


@pytest.mark.parametrize(
    "name",
    ["relu", "normed", "paper", *(pytest.param(n, marks=pytest.mark.slow) for n in GENERAL)],
)
@pytest.mark.filterwarnings("error:Dynamo detected")
def test_training_in_one_graph(name):
    torch.compiler.reset()
    warned.clear()  # what dynamo has warned of in this process it would not say again
    plain = trained(LAYERS[name])
    other = copy.deepcopy(plain)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    for n in (24, 40):
        x = batch(plain, n)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        one, two = plain(a), compiled(b)
        weights = torch.randn_like(one)
        (one * weights).sum().backward()
        (two * weights).sum().backward()
        torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-3)
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=2e-2)
    for name, value in plain.state_dict().items():
        # A place inside a bin is counted in 256ths.
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-4, atol=1 / 128)


@layers
def test_eval_in_one_graph(make):
    torch.compiler.reset()
    layer = trained(make).eval()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for n in (24, 7):
        x = batch(layer, n)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), layer(x), rtol=1e-5, atol=1e-5)


def test_a_compiled_graph_makes_its_table_once(monkeypatch):
    torch.compiler.reset()
    made = []
    store = recall.store
    monkeypatch.setattr(recall, "store", lambda *a: made.append(1) or store(*a))
    layer = trained(LAYERS["relu"]).eval()
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = batch(layer)
    with torch.no_grad():
        for expected in (1, 1, 2):
            if expected == 2:
                for part in (layer, twin):
                    part.bias += 1.0
            torch.testing.assert_close(compiled(x), twin(x))
            assert len(made) == expected
    # Trained on through the compiled graph, the context is another one.
    compiled.train()
    compiled(x * 7)
    compiled.eval()
    with torch.no_grad():
        assert not torch.allclose(compiled(x), twin(x))
        assert len(made) == 3


def test_an_operator_for_compilers():
    layer = trained(LAYERS["relu"])
    context = [*layer.context.tensors, layer.context.batches]
    args = (torch.randn(4, 3, 5), context, layer.weight.detach(), None, None, "gelu")
    torch.library.opcheck(recall.recall, (*args, recall.numbers(layer.rule)))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("name", ["relu", "normed", "paper"])
def test_inductor(name):
    torch.compiler.reset()
    layer = trained(LAYERS[name])
    other = copy.deepcopy(layer)
    compiled = torch.compile(other, fullgraph=True)
    x = batch(layer)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    one, two = layer(a), compiled(b)
    one.square().sum().backward()
    two.square().sum().backward()
    torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=2e-2)
    layer.eval()
    compiled.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), other(x), rtol=1e-5, atol=1e-5)


OLD = "torch 2.6 loses the symbol of a size at an autograd.Function under strict=True"
old = pytest.mark.skipif(torch.__version__ < "2.7", reason=OLD)


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=old)])
def test_export_is_saved_and_loaded_without_us(strict, tmp_path):
    for make in LAYERS.values():
        layer = trained(make).eval()
        shapes = ({0: torch.export.Dim.DYNAMIC},)
        program = torch.export.export(layer, (batch(layer),), dynamic_shapes=shapes, strict=strict)
        assert "qact" not in str(program.graph)
        torch.export.save(program, tmp_path / "layer.pt2")
        loaded = torch.export.load(tmp_path / "layer.pt2").module()
        for n in (2, 33):
            x = batch(layer, n)
            with torch.no_grad():
                near = 1e-5 + float(layer.stored().slack.max())  # lines for cubics
                torch.testing.assert_close(loaded(x), layer(x), rtol=1e-5, atol=near)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@layers
def test_jit_trace(make, tmp_path):
    layer = trained(make)
    with pytest.raises(RuntimeError, match="hold a stored context only"):
        torch.jit.trace(layer, (batch(layer),))
    layer.eval()
    torch.jit.trace(layer, (batch(layer),)).save(tmp_path / "layer.pt")
    loaded, x = torch.jit.load(tmp_path / "layer.pt"), batch(layer, 9)
    with torch.no_grad():
        near = 1e-5 + float(layer.stored().slack.max())  # lines for cubics
        torch.testing.assert_close(loaded(x), layer(x), rtol=1e-5, atol=near)


BLOCKS = {
    "qact": QAct,
    "normed": NormedQAct,
    "after": lambda channels: NormedQAct(channels, after=True),
    "paper": QAct.paper,
}


def convnet(make) -> nn.Module:
    torch.manual_seed(1)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), make(8), nn.Conv2d(8, 8, 3, padding=1), make(8), *head
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", BLOCKS)
def test_images_of_varying_size(name, layout):
    """A flattened view behind a convolution could not be compiled: PyTorch issue 185510."""
    torch.compiler.reset()
    plain, other = (convnet(BLOCKS[name]).to(memory_format=layout) for _ in range(2))
    compiled = torch.compile(other, dynamic=True if name == "qact" else None)
    images = [torch.randn(6, 3, s, s).to(memory_format=layout) for s in (16, 18, 21)]
    for x in images:
        plain.zero_grad(), other.zero_grad()
        weights = torch.randn(6, 4)
        one, two = plain(x), compiled(x)
        (one * weights).sum().backward()
        (two * weights).sum().backward()
        torch.testing.assert_close(one, two, rtol=1e-3, atol=2e-3)
        for a, b in zip(plain.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-2, atol=1e-2)
    for a, b in zip(plain.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1 / 64)
    other.load_state_dict(plain.state_dict())
    plain.eval(), other.eval()
    with torch.no_grad():
        for x in images:
            torch.testing.assert_close(compiled(x), plain(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dim", [1, -1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("grad_layout", [torch.contiguous_format, torch.channels_last])
def test_operators_take_any_memory(dim, layout, grad_layout):
    """One graph, whose operators flatten what they get; the gradient may lie otherwise."""
    torch.compiler.reset()
    plain, other = (NormedQAct(6, dim=dim) for _ in range(2))
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    shape = (5, 6, 4, 3) if dim == 1 else (5, 4, 3, 6)
    x, weights = torch.randn(shape).to(memory_format=layout), torch.randn(shape)
    weights = weights.to(memory_format=grad_layout)
    a, b = (x.clone().requires_grad_() for _ in range(2))
    one, two = plain(a), compiled(b)
    one.backward(weights)
    two.backward(weights)
    assert one.stride() == two.stride()
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
