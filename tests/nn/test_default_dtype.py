"""The default dtype is of new parameters alone: what is computed on the way has a dtype of its own.

Lightning sets it to half precision for each step (``precision="bf16-true"``); kernels then wrote
float32 into memory that was made for half of that.
"""

from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from torch import nn

from qact import NormedQAct, QAct

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


def test_a_network_trains_in_half_precision_by_default():
    with default(torch.bfloat16):
        net = nn.Sequential(nn.Linear(5, 16), QAct(16), nn.Linear(16, 16), NormedQAct(16))
        for _ in range(20):
            net(torch.randn(32, 5)).sum().backward()
        assert all(p.grad.isfinite().all() for p in net.parameters())
        assert net.eval()(torch.randn(32, 5)).isfinite().all()
