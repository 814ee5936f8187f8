"""Second derivatives: right in a stored context, refused aloud where the batch is the context."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from qact import Context, NormedQAct, QAct
from qact.functional import quantile_activation

ENGINES = (None, "eager")
LEVELS = ("relu", "uniform", "normal", "gelu", "table")


def values() -> Tensor:
    return torch.randn(60, 2, dtype=torch.float64)


def trained(layer: nn.Module, mode: str = "running") -> nn.Module:
    layer.double()
    with torch.no_grad():
        for _ in range(3):
            layer(values())
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    layer.eval()
    for part in layer.modules():
        if isinstance(part, QAct):
            part.mode = mode
    return layer


def with_engine(layer: nn.Module, engine: str | None) -> nn.Module:
    for part in layer.modules():
        if isinstance(part, QAct):
            part.engine = engine
    return layer


def second(layer: nn.Module, z: Tensor, loss: str, wanted: list[int] | None = None) -> list[Tensor]:
    """Derivatives of a sum of first derivatives, by all inputs that need a gradient."""
    inputs = [z.clone(), *layer.parameters()]
    for place, tensor in enumerate(inputs):
        tensor.requires_grad_(wanted is None or place in wanted)
    inputs = [tensor for tensor in inputs if tensor.requires_grad]
    direction = torch.linspace(-1, 2, z.numel(), dtype=z.dtype).reshape(z.shape)
    output = layer(z if wanted is not None and 0 not in wanted else inputs[0])
    total = {
        "sum": output.sum(),
        "weighted": (output * direction).sum(),
        "square": (output**2).sum(),
    }
    found = []
    for first in torch.autograd.grad(total[loss], inputs, create_graph=True):
        weights = torch.linspace(1, 2, first.numel(), dtype=z.dtype).reshape(first.shape)
        # Beside a term that has a derivative, a part that is missing would go unseen.
        sum_ = (first * weights).sum() + sum((i**3).sum() for i in inputs)
        seconds = torch.autograd.grad(sum_, inputs, retain_graph=True)
        found += list(seconds)
    return found


@pytest.mark.parametrize("loss", ["sum", "weighted", "square"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_stored_context_has_the_second_derivative_of_the_definition(engine, level, loss):
    layer = trained(QAct(2, levels=level, bandwidth="0.5std"))
    z = values()
    want = second(with_engine(layer, "reference"), z, loss)
    got = second(with_engine(layer, engine), z, loss)
    for a, b in zip(got, want, strict=True):
        assert float((a - b).norm()) <= 0.03 * float(b.norm()) + 1e-9


@pytest.mark.parametrize("make", [QAct, NormedQAct, lambda c: NormedQAct(c, after=True)])
def test_the_second_derivative_is_the_slope_of_the_first(make):
    """By central differences of the layer itself, at points away from zero's jump."""
    layer = trained(make(2))
    z = torch.tensor([[-1.3], [-0.4], [0.7], [1.1]], dtype=torch.float64).repeat(1, 2)

    def first(at: Tensor) -> Tensor:
        at = at.clone().requires_grad_()
        return torch.autograd.grad(layer(at).sum(), at, create_graph=True)[0]

    point = z.clone().requires_grad_()
    slope = torch.autograd.grad(layer(point).sum(), point, create_graph=True)[0]
    (got,) = torch.autograd.grad(slope.sum(), point)
    step = 1e-6
    want = (first(z + step) - first(z - step)) / (2 * step)
    torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-5)


def given(layer: nn.Module, z: Tensor, loss: str, wanted: list[int]) -> list[Tensor] | None:
    """The second derivatives, or None where they are refused."""
    try:
        return second(layer, z, loss, wanted)
    except RuntimeError as error:
        if "second derivative" not in str(error):
            raise
        return None


def arrangements(layer: nn.Module) -> list[list[int]]:
    n = 1 + len(list(layer.parameters()))
    return [list(c) for k in (1, 2, n) for c in itertools.combinations(range(n), k)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", ["batch", "mixed"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "make",
    [
        QAct,
        lambda c: QAct(c, levels="gelu"),
        lambda c: QAct(c, levels="table"),
        lambda c: QAct(c, gradient="density"),
        NormedQAct,
        lambda c: NormedQAct(c, after=True),
    ],
)
def test_a_batch_in_its_own_context_is_right_or_refuses(make, engine, mode, training):
    layer = trained(make(2), mode).float().train(training)
    z = values().float()
    for wanted in arrangements(layer):
        for loss in ("sum", "square"):
            got = given(with_engine(layer, engine), z, loss, wanted)
            if got is None:
                continue
            want = second(with_engine(layer, "reference"), z, loss, wanted)
            for a, b in zip(got, want, strict=True):
                assert float((a - b).norm()) <= 0.03 * float(b.norm()) + 1e-5


@pytest.mark.own_seed  # for which no value stands on the edge of a level
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["running", "batch", "mixed"])
@pytest.mark.parametrize("training", [True, False])
def test_the_published_layer_is_right_or_refuses(training, mode, dtype):
    layer = trained(QAct.paper(2), mode).to(dtype).train(training)
    z = values().to(dtype)
    for loss in ("sum", "square"):
        for wanted in arrangements(layer):
            got = given(with_engine(layer, None), z, loss, wanted)
            if got is None:
                assert mode != "running" or training
                continue
            want = second(with_engine(layer, "reference"), z, loss, wanted)
            for a, b in zip(got, want, strict=True):
                assert float((a - b).norm()) <= 0.1 * float(b.norm()) + 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_the_function_is_right_in_a_context_and_refuses_without(engine):
    z, context = values().float(), Context(2).add(values().float())
    weight = torch.full((2,), 1.5, requires_grad=True)

    def twice(engine, context, input):
        output = quantile_activation(
            input, context=context, levels="gelu", weight=weight, engine=engine, bandwidth="0.5std"
        )
        (first,) = torch.autograd.grad(output.sum(), input, create_graph=True)
        return torch.autograd.grad((first + input**2).sum(), [input, weight])

    got = twice(engine, context, z.clone().requires_grad_())
    want = twice("reference", context, z.clone().requires_grad_())
    for a, b in zip(got, want, strict=True):
        assert float((a - b).norm()) <= 0.03 * float(b.norm())
    with pytest.raises(RuntimeError, match="second derivative"):
        twice(engine, None, z.clone().requires_grad_())


def test_the_transform_of_torch_gives_the_same():
    layer = trained(QAct(2, levels="gelu", bandwidth="0.5std"))
    z = values()
    got = torch.func.grad(lambda x: torch.func.grad(lambda y: layer(y).sum())(x).sum())(z)
    x = z.clone().requires_grad_()
    (first,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    torch.testing.assert_close(got, torch.autograd.grad(first.sum(), x)[0])


WAYS = {
    "forward over backward": torch.func.hessian,
    "backward over forward": lambda f: torch.func.jacrev(torch.func.jacfwd(f)),
    "backward over backward": lambda f: torch.func.jacrev(torch.func.jacrev(f)),
    "a product at a time": lambda f: (
        lambda x: torch.stack(
            [
                torch.func.jvp(torch.func.grad(f), (x,), (row,))[1]
                for row in torch.eye(x.numel()).to(x)
            ]
        )
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("make", [QAct, NormedQAct])
def test_every_way_to_a_hessian_gives_that_of_finite_differences(make, level, way):
    layer = trained(make(2, levels=level, bandwidth="0.5std"))
    x = torch.tensor([-1.3, 0.4, 0.7, 1.1], dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return (layer(x.reshape(2, 2)) ** 2).sum()

    def slope(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(loss(x), x)[0]

    steps = 1e-6 * torch.eye(4, dtype=torch.float64)
    want = torch.stack([(slope(x + s) - slope(x - s)) / 2e-6 for s in steps])
    got = WAYS[way](loss)(x)
    assert float((got.detach() - want).norm()) <= 0.01 * float(want.norm())


@pytest.mark.parametrize("make", [QAct, NormedQAct, lambda c: QAct(c, levels="table")])
def test_forward_mode_gives_the_derivative_of_backward(make):
    layer = trained(make(2))
    x, move = values(), values()
    point = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(layer(point).sum(), point)
    with forward_ad.dual_level():
        for at in (x, x.clone().requires_grad_()):
            moved = forward_ad.unpack_dual(layer(forward_ad.make_dual(at, move))).tangent
            torch.testing.assert_close(moved.detach(), slope * move)
        # And of a gradient that is taken meanwhile, without a graph.
        dual = forward_ad.make_dual(x.clone().requires_grad_(), move)
        (first,) = torch.autograd.grad(layer(dual).square().sum(), dual)
        twice = forward_ad.unpack_dual(first).tangent
    x.requires_grad_()
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    torch.testing.assert_close(twice, torch.autograd.grad((first * move).sum(), x)[0])


@pytest.mark.parametrize("make", [QAct, NormedQAct])
def test_what_has_no_derivative_in_forward_mode_says_so(make):
    layer, x = trained(make(2)), values()
    with pytest.raises(RuntimeError, match="no second derivative in forward mode over forward"):
        torch.func.jacfwd(torch.func.jacfwd(lambda x: layer(x).sum()))(x)
    for dtype in (torch.float32, torch.float64):
        layer.to(dtype).train()
        with pytest.raises(RuntimeError, match=r"no running context can follow under torch\.func"):
            torch.func.grad(lambda x: layer(x).sum())(x.to(dtype))
        with (
            forward_ad.dual_level(),
            pytest.raises(RuntimeError, match="its own batch has no derivative in forward mode"),
        ):
            layer(forward_ad.make_dual(x.to(dtype), x.to(dtype)))


def test_the_density_of_a_context_has_the_slope_of_the_definition():
    context = Context(2, dtype=torch.float64).add(values())
    z = values().requires_grad_()
    (slope,) = torch.autograd.grad(context.density(z).sum(), z)
    with torch.no_grad():
        step = 1e-6
        want = (context.density(z + step) - context.density(z - step)) / (2 * step)
    assert float((slope - want).abs().median()) <= 1e-6
