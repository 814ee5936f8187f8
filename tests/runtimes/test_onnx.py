"""``torch.onnx.export(dynamo=True)``: layers with a stored context agree in onnxruntime.

To 1e-5 and to what lines are from the cubics that a layer reads (`qact.kernels.pieces.LINES`).
"""

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


def lines(model: nn.Module) -> float:
    """How far lines may be from what one of the model's layers says."""
    read = [m for m in model.modules() if isinstance(m, (QAct, NormedQAct))]
    return max(float(layer.stored().slack.max()) for layer in read)


def agrees(model: nn.Module, shape: tuple[int, ...], path, times: float = 1) -> set[str]:
    """Parity at two other batch sizes; the operators of the graph."""
    session = exported(model, torch.randn(shape), str(path / "model.onnx"))
    for n in (1, 13):
        x = torch.randn(n, *shape[1:]) * 4
        with torch.no_grad():
            want = model(x)
        near = 1e-5 + times * lines(model)
        torch.testing.assert_close(answer(session, x), want, rtol=0, atol=near)
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
        x = self.block(self.conv(x))  # steps first: at a jump there is no small difference
        x = self.act(self.again(self.act(x)))
        return self.head(self.lazy(x.flatten(2).transpose(1, 2)).mean(1))


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
    rounding = 1e-3 if dtype == torch.float16 else 1e-6
    torch.testing.assert_close(got, want, rtol=0, atol=rounding + lines(layer))


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


@pytest.mark.parametrize("kind", ["relu", "uniform", "normal", "gelu", "norms", "tokens", "floats"])
def test_the_nearest_entry_is_within_the_error_asked_for(kind, tmp_path):
    layers = {
        "norms": lambda: NormedQAct(3, after=True),
        "tokens": lambda: QAct(3, dim=-1),
        "floats": lambda: QAct(3, dtype=torch.float64),
    }
    layer = layers.get(kind, lambda: QAct(3, levels=kind))()
    shape = (32, 5, 3) if kind == "tokens" else (32, 3, 4, 2)
    dtype = torch.float64 if kind == "floats" else torch.float32
    layer.train()
    for _ in range(3):
        layer(torch.randn(shape, dtype=dtype) * 2 + 0.3)
    layer.eval()
    path = str(tmp_path / "x.onnx")
    x = torch.randn(64, *shape[1:], dtype=dtype) * 3
    with torch.no_grad():
        want = layer(x)
        line = torch.linspace(-30, 30, 2001, dtype=dtype).view(-1, *[1] * (x.dim() - 1))
        reach = layer(line.expand(-1, *shape[1:]))
    span = reach.max() - reach.min()
    errors = []
    for error in (1 / 200, 1 / 1500):
        with qact.fast_export(error):
            session = exported(layer, x[:2], path)
        errors.append(float((answer(session, x) - want).abs().max() / span))
        assert errors[-1] <= error * (1 + 1e-3)
        assert (
            session.get_outputs()[0].type == f"tensor({'double' if kind == 'floats' else 'float'})"
        )
    assert errors[1] < errors[0]
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert len(operators) <= 8 + 2 * (kind == "floats")


def test_the_nearest_entry_of_extremes(tmp_path):
    layer = trained(QAct(2, levels="normal"), (64, 2))
    with qact.fast_export():
        session = exported(layer, torch.randn(4, 2), str(tmp_path / "x.onnx"))
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[inf, -inf], [1e30, -1e30], [nan, nan]])
    with torch.no_grad():
        want = layer(x)
    torch.testing.assert_close(answer(session, x), want, atol=1e-6, rtol=0, equal_nan=True)


@pytest.mark.own_seed  # for which no value stands on an edge
def test_the_nearest_entry_of_steps_is_a_neighbouring_step(tmp_path):
    layer = trained(QAct.paper(3), (64, 3, 4))
    x = torch.randn(64, 3, 4) * 2
    with qact.fast_export():
        session = exported(layer, x[:2], str(tmp_path / "x.onnx"))
    with torch.no_grad():
        want, step = layer(x), layer.norm_out.weight.abs() / layer.norm_out.running_var.sqrt() / 101
    wrong = (answer(session, x) - want).abs()
    assert (wrong <= 2.01 * step[:, None]).all()
    assert (wrong > 1e-5).float().mean() < 0.05


def test_what_no_table_can_hold_is_exported_as_before(tmp_path):
    layer = trained(QAct(2), (64, 2))
    with qact.fast_export(1e-7), pytest.warns(UserWarning, match="8192 entries"):
        torch.export.export(layer, (torch.randn(4, 2),))
    refused = pytest.raises(ValueError, match=r"error=0 must be a share of the range, in \(0, 1\]")
    with refused, qact.fast_export(0):
        pass


def test_a_constant_channel_and_a_block_that_ends(tmp_path):
    layer = QAct(2)
    layer(torch.tensor([[1.0, 0.0], [1.0, 3.0], [1.0, 2.0]]))
    layer.eval()
    x = torch.randn(50, 2)
    with torch.no_grad():
        want = layer(x)
    with qact.fast_export():
        near = torch.export.export(layer, (x,)).module()(x)
    assert 0 < (near - want).abs().max() <= 4 / 400
    line = torch.export.export(layer, (x,)).module()(x)
    torch.testing.assert_close(line, want, rtol=1e-5, atol=1e-5 + lines(layer))
