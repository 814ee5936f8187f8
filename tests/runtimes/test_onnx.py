"""``torch.onnx.export(dynamo=True)``: layers with a stored context agree in onnxruntime to 1e-5."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import qact
from qact import NormedQAct, QAct, levels

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

BATCH = ({0: torch.export.Dim.DYNAMIC},)
LEVELS = ["uniform", "steps", "normal", "table", "relu", "gelu", torch.sin]


def trained(layer: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    layer.train()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if not name.endswith("table"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    for _ in range(3):
        layer(torch.randn(shape) * 2 + 0.3)
    return layer.eval()


def exported(model: nn.Module, x: Tensor, path) -> onnxruntime.InferenceSession:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), path, dynamo=True, verbose=False, dynamic_shapes=BATCH)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def answer(session: onnxruntime.InferenceSession, x: Tensor) -> Tensor:
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def agrees(model: nn.Module, shape: tuple[int, ...], path, tolerance: float = 1e-5) -> set[str]:
    """Parity at two other batch sizes; the operators of the graph."""
    session = exported(model, torch.randn(shape), str(path / "model.onnx"))
    for n in (1, 13):
        x = torch.randn(n, *shape[1:]) * 4
        with torch.no_grad():
            want = model(x)
        torch.testing.assert_close(answer(session, x), want, rtol=0, atol=tolerance)
    graph = onnx.load(str(path / "model.onnx")).graph
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    return {node.op_type for node in graph.node}


class Each(nn.ModuleList):
    """Every layer on the same input: one export instead of many."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([layer(x) for layer in self], -1)


@pytest.mark.parametrize("smooth", [True, False])
def test_every_level(smooth, tmp_path):
    layers = [QAct(3, levels=level, smooth=smooth, grounded=smooth) for level in LEVELS]
    layers.append(QAct(3, smooth=smooth, grounded="continuous"))
    operators = agrees(trained(Each(layers), (32, 3, 4)), (5, 3, 4), tmp_path)
    assert "Gather" in operators
    # A table is a constant: no FFT that makes it, no search that reads it.
    assert not operators & {"DFT", "Loop", "Scan", "Exp", "CumSum", "ScatterElements"}


@pytest.mark.parametrize(
    ("dim", "shape"), [(1, (32, 3)), (-1, (32, 5, 3)), (2, (32, 2, 3, 4)), (1, (16, 3, 2, 2, 2))]
)
def test_every_shape(dim, shape, tmp_path):
    layer = trained(QAct(3, dim=dim, grounded=dim == 1), shape)
    assert "Gather" in agrees(layer, (5, *shape[1:]), tmp_path)


@pytest.mark.parametrize("options", [{"levels": "table"}, {"after": True}, {"smooth": False}])
def test_norms_are_folded_into_the_table(options, tmp_path):
    layer = trained(NormedQAct(3, **options), (32, 3, 4))
    operators = agrees(layer, (5, 3, 4), tmp_path)
    assert ("BatchNormalization" in operators) == (options == {"levels": "table"})


def test_the_published_layer(tmp_path):
    assert "Gather" in agrees(trained(QAct.paper(3), (32, 3, 4)), (5, 3, 4), tmp_path)


class Net(nn.Module):
    """A convolution, one layer used twice, tokens, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.again = nn.Conv2d(4, 4, 3)
        self.act = QAct(4)
        self.block = QAct.paper(4)
        self.lazy = qact.LazyQAct(dim=-1, levels="gelu")
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.again(self.act(self.conv(x))))
        return self.head(self.lazy(self.block(x).flatten(2).transpose(1, 2)).mean(1))


def test_a_network(tmp_path):
    net = Net()
    net(torch.randn(16, 2, 6, 6))
    agrees(trained(net, (16, 2, 6, 6)), (3, 2, 6, 6), tmp_path)


def test_the_graph_holds_the_present_numbers(tmp_path):
    layer = trained(QAct(3), (32, 3))
    agrees(layer, (5, 3), tmp_path)
    with torch.no_grad():
        layer.bias.add_(1.0)
    agrees(layer, (5, 3), tmp_path)
    layer.train()(torch.randn(32, 3) * 9)
    agrees(layer.eval(), (5, 3), tmp_path)
    state = {k: v.clone() for k, v in layer.state_dict().items()}
    fresh = QAct(3).eval()
    fresh.load_state_dict(state, assign=True)
    agrees(fresh, (5, 3), tmp_path)
    assert all(torch.equal(v, state[k]) for k, v in fresh.state_dict().items())


def test_extremes(tmp_path):
    layer = trained(QAct(2, levels="gelu"), (64, 2))
    session = exported(layer, torch.randn(4, 2), str(tmp_path / "x.onnx"))
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[0.0, -0.0], [inf, -inf], [1e30, -1e30], [1e-30, nan]] * 3)
    with torch.no_grad():
        torch.testing.assert_close(answer(session, x), layer(x), atol=1e-6, rtol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes(dtype, tmp_path):
    layer = trained(QAct(3), (32, 3)).to(dtype)
    x = torch.randn(8, 3, dtype=dtype)
    session = exported(layer, x, str(tmp_path / "x.onnx"))
    with torch.no_grad():
        want = layer(x)
    got = answer(session, x)
    assert got.dtype == dtype
    torch.testing.assert_close(got, want, rtol=0, atol=1e-3 if dtype == torch.float16 else 1e-6)


@pytest.mark.parametrize("mode", ["training", "batch", "mixed"])
@pytest.mark.parametrize("kind", [QAct, NormedQAct])
def test_a_context_of_the_batch_has_no_graph(kind, mode, tmp_path):
    layer = trained(kind(3, context="running" if mode == "training" else mode), (32, 3))
    layer.train(mode == "training")
    with pytest.raises(Exception, match=rf"{mode}.*stored context only"):
        exported(layer, torch.randn(8, 3), str(tmp_path / "x.onnx"))


def test_an_empty_context_has_no_table(tmp_path):
    with pytest.raises(Exception, match="has seen no data"):
        exported(QAct(3).eval(), torch.randn(8, 3), str(tmp_path / "x.onnx"))


def test_levels_that_no_table_carries_are_applied_to_ranks(tmp_path):
    level = levels.Level(levels.uniform_score, torch.tanh, interpolable=False)
    agrees(trained(QAct(3, levels=level, affine=False), (32, 3)), (5, 3), tmp_path)
