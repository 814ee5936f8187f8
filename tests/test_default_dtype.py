"""The default dtype is of new parameters alone: what is computed on the way has a dtype of its own.

Lightning sets it to half precision for each step (``precision="bf16-true"``); kernels then wrote
float32 into memory that was made for half of that.
"""

from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from torch import nn

import qact
from qact import NormedQAct, QAct
from qact.corruptions import corrupt, corruptions
from qact.monitor import Monitor, record
from qact.taps.patterns import Patterns

LAYERS = {
    "qact": lambda c: QAct(c),
    "table": lambda c: QAct(c, levels="table"),
    "gelu": lambda c: QAct(c, levels="gelu"),
    "paper": lambda c: QAct.paper(c),
    "without a scale": lambda c: QAct(c, affine=False),
    "normed": lambda c: NormedQAct(c),
}


@contextmanager
def default(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def told(layer, x, engine):
    """Outputs in training and `eval()`, gradients and buffers of a copy of a layer."""
    layer = deepcopy(layer)
    for part in layer.modules():
        if isinstance(part, QAct):
            part.engine = engine
    x = x.clone().requires_grad_()
    trained = layer(x)
    trained.square().sum().backward()
    layer.eval()
    graded = layer(2 * x)
    with torch.no_grad():
        stored = layer(2 * x), layer(x[:1])
    gradients = [p.grad for p in layer.parameters()]
    return [trained, x.grad, graded, *stored, *gradients, *layer.buffers()]


@pytest.mark.parametrize("engine", [None, "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(64, 6), (8, 6, 5, 5), (3, 40)])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_in_float32_do_not_hear_of_it(name, shape, dtype, engine):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    layer = LAYERS[name](x.shape[1])
    expected = told(layer, x, engine)
    with default(dtype):
        found = told(layer, x, engine)
    for a, b in zip(expected, found, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("engine", [None, "eager"])
@pytest.mark.parametrize("shape", [(64, 6), (8, 6, 5, 5), (3, 40)])
@pytest.mark.parametrize("name", LAYERS)
def test_a_default_device_is_of_new_parameters_too(name, shape, engine):
    """A layer on the CPU stays there; kernels wrote through addresses of another device."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    layer = LAYERS[name](x.shape[1])
    expected = told(layer, x, engine)
    with torch.device("meta"):
        found = told(layer, x, engine)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)


def test_a_network_trains_in_half_precision_by_default():
    with default(torch.bfloat16):
        net = nn.Sequential(nn.Linear(5, 16), QAct(16), nn.Linear(16, 16), NormedQAct(16))
        for _ in range(20):
            net(torch.randn(32, 5)).sum().backward()
        assert all(p.grad.isfinite().all() for p in net.parameters())
        assert net.eval()(torch.randn(32, 5)).isfinite().all()


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    parts = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), QAct(6), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    found = nn.Sequential(*parts, nn.Linear(6, 3))
    for _ in range(3):
        found(torch.randn(16, 2, 7, 7))
    return found.eval()


@pytest.fixture(scope="module")
def batches():
    draw = torch.Generator().manual_seed(1)
    return list(torch.randn(4, 16, 2, 7, 7, generator=draw, dtype=torch.float32))


def adapted(name):
    def run(net, batches):
        with qact.adapt.create(name, net) as method:
            return [method(2 * x) for x in batches]

    return run


def watched(net, batches):
    """Distances and p-values of windows that have drifted."""
    reference = record(net, torch.cat(batches), draws=99)
    with Monitor(net, reference, window=16) as monitor:
        for x in batches:
            net(x + 1)
    told = [[v.p, *v.p_values.values(), *v.distances.values()] for v in monitor.verdicts]
    return [torch.tensor(told, dtype=torch.float64)]


def corrupted(net, batches):
    images = (batches[0][:2, :1] / 8 + 0.5).clamp(0, 1).repeat(1, 3, 1, 1)
    return [corrupt(images, name, 3, seed=0) for name in corruptions("all")]


def followed(net, batches):
    """A running context whose mean over batches is taken by hand, as BatchNorm takes it."""
    context = qact.Context(2, dtype=torch.float32)
    for x in batches:
        seen = qact.Context(2, dtype=torch.float32).add(x, dim=1)
        context.follow(seen.histogram, None)
    return [context.mean, context.mass, context.quantile(0.3)]


def patterned(net, batches):
    values = batches[0].flatten(1).repeat(40, 1)  # more of a class than bfloat16 counts
    classes = torch.zeros(len(values), dtype=torch.int64)
    found = Patterns(1, values.shape[1]).mine(values, classes)
    return [found.active, found.count, found.violated(batches[1].flatten(1), classes[:16])]


ROOMS = {name: adapted(name) for name in ("cotta", "delta", "roid", "rotta", "safe")} | {
    "monitor": watched,
    "corruptions": corrupted,
    "follow": followed,
    "patterns": patterned,
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("room", ROOMS)
def test_no_room_hears_of_it(room, dtype, net, batches):
    with default(torch.float32):
        expected = ROOMS[room](net, batches)
    with default(dtype):
        found = ROOMS[room](net, batches)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b.to(a.dtype))


@pytest.mark.parametrize("room", ["cotta", "roid", "rotta"])
def test_no_draw_hears_of_a_device(room, net, batches):
    expected = ROOMS.get(room, adapted(room))(net, batches)
    with torch.device("meta"):
        found = ROOMS.get(room, adapted(room))(net, batches)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)
