"""Interval bounds: nothing in a box is ever outside; for one value alone they are exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import qact
from qact.activations.intervals import Box, interval
from qact.surgery.kinds import GATES, HIDDEN

C = 6


def made(name, **options):
    """An activation in eval(), with statistics where it has some, in float64."""
    torch.manual_seed(0)
    module = qact.activation(name, C, **options).double()
    if name == "clipact":
        module.threshold.fill_(1.5)
    if name.startswith("qact") or name in ("dice", "transported"):
        module.train()(2 * torch.randn(400, C).double() + 0.5)
    if name == "transported":
        module.source.add(torch.randn(400, C).exp())
    return module.eval()


def holds(module, box, points=64, slack=1e-6):
    """Random points of a box, and its corners, are within the bounds; return the extremes seen."""
    bounds = interval(module, box)
    share = torch.rand(points, *box.low.shape, dtype=box.low.dtype)
    share[0], share[1] = 0, 1
    with torch.no_grad():
        values = torch.stack([module(torch.lerp(*box, s)) for s in share])
    assert (values.amin(0) >= bounds.low - slack).all()
    assert (values.amax(0) <= bounds.high + slack).all()
    return bounds, Box(values.amin(0), values.amax(0))


@pytest.mark.parametrize("levels", ["gelu", "silu", "mish", "hardswish", "table"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_level_that_turns_is_bounded_as_the_layer_reads_it(levels, dtype):
    """The map that eval() reads is fitted, and lies beside the context's own by up to 1/2000."""
    torch.manual_seed(0)
    for values in (4000, 60):
        module = qact.QAct(C, levels=levels)
        module(torch.randn(values, C))
        if levels == "table":
            with torch.no_grad():
                module.table += torch.randn_like(module.table)
        module.eval().to(dtype)
        for low, high in ((-3.0, 0.0), (-1.0, 0.2), (-4.0, 4.0)):
            ends = [torch.full((1, C), end, dtype=dtype) for end in (low, high)]
            bounds = interval(module, Box(*ends))
            places = torch.linspace(low, high, 4001, dtype=dtype)[:, None].expand(-1, C)
            with torch.no_grad():
                y = module(places.contiguous())
            assert (y.amin(0) >= bounds.low - 1e-6).all()
            assert (y.amax(0) <= bounds.high + 1e-6).all()


@pytest.mark.parametrize("name", qact.list_activations())
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 30), width=st.floats(0, 10))
def test_what_a_box_holds_is_never_outside(name, seed, scale, width):
    module = made(name)
    torch.manual_seed(seed)
    middle = scale * torch.randn(5, C, dtype=torch.float64)
    radius = width * torch.rand(5, C, dtype=torch.float64)
    holds(module, Box.about(middle, radius), 16, slack=1e-6 * (1 + scale + width) ** 3)


@pytest.mark.parametrize("name", qact.list_activations())
def test_a_point_is_its_value(name):
    module, x = made(name), torch.randn(5, C, dtype=torch.float64)
    box, y = interval(module, Box(x, x)), module(x).detach()
    torch.testing.assert_close(box.low, y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(box.high, y, rtol=1e-5, atol=1e-5)


def scanned(module, low, high, points=20001):
    """Extremes over [low, high] by evaluating everywhere, one channel for all."""
    x = torch.linspace(low, high, points, dtype=torch.float64)[:, None].expand(-1, C)
    with torch.no_grad():
        y = module(x.contiguous())
    return y.amin(0), y.amax(0)


SETTINGS = [
    *[
        ("aptx", {"alpha": a, "beta": b})
        for a, b in ((1.1, 1.0), (0.3, -2.0), (1.0, 1.0), (-1.1, 1))
    ],
    *[("swish", {"beta": b}) for b in (-1.5, 0.0, 3.0)],
    *[("aglu", {"kappa": k, "lambda_": v}) for k, v in ((1.0, 1e-4), (-2.0, 3.0))],
    *[("xatlu", {"alpha": a}) for a in (0.0, 0.3, -0.7)],
    *[("xgelu", {"alpha": a}) for a in (0.3, -0.05, -0.5, -2.0)],
    *[("xsilu", {"alpha": a}) for a in (0.3, -0.05, -0.02)],
    *[("crrelu", {"epsilon": e}) for e in (0.01, -2.0, 3.0)],
    *[
        ("elu", {"alpha": -1.0}),
        ("prelu", {"init": -0.5}),
        ("leaky_relu", {"negative_slope": -1.0}),
    ],
    *[("softplus", {"threshold": 0.1}), ("softplus", {"beta": -2.0, "threshold": 0.5})],
    *[("fitact", {"bound": 2.0, "steepness": 1.5}), ("proact", {"bound": 0.2, "steepness": 3.0})],
    *[
        ("clipact", {}),
        ("gelu", {}),
        ("gelu_tanh", {}),
        ("silu", {}),
        ("mish", {}),
        ("hardswish", {}),
    ],
    *[("golu", {}), ("dice", {"alpha": 0.3}), ("dice", {"alpha": -1.0}), ("transported", {})],
]


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_exact_by_a_scan(name, options):
    module = made(name, **options)
    for low, high in ((-6.0, 6.0), (-2.0, -0.3), (-1.0, 4.0), (0.2, 3.0)):
        ends = (torch.full((1, C), end, dtype=torch.float64) for end in (low, high))
        box, (least, most) = interval(module, Box(*ends)), scanned(module, low, high)
        torch.testing.assert_close(box.low[0], least, rtol=1e-3, atol=2e-3)
        torch.testing.assert_close(box.high[0], most, rtol=1e-3, atol=2e-3)
        assert (box.low[0] <= least + 1e-9).all()
        assert (box.high[0] >= most - 1e-9).all()


@pytest.mark.parametrize("name", ["tmaf", "pau", "polyrelu", "dice", "fitact"])
def test_any_parameters(name):
    for seed in range(6):
        module = made(name)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(2 * torch.randn_like(parameter))
            if name == "dice":
                module.running_mean.copy_(3 * torch.randn(C))
        low, high = sorted((4 * torch.randn(2)).tolist())
        ends = (torch.full((1, C), end, dtype=torch.float64) for end in (low, high))
        box, (least, most) = interval(module, Box(*ends)), scanned(module, low, high)
        size = 1 + float((most - least).max())
        assert (box.low[0] <= least + 1e-9).all()
        assert (box.high[0] >= most - 1e-9).all()
        torch.testing.assert_close(box.low[0], least, rtol=0, atol=2e-3 * size)
        torch.testing.assert_close(box.high[0], most, rtol=0, atol=2e-3 * size)


@pytest.mark.parametrize("kind", [k for k in HIDDEN + GATES if k is not nn.Threshold], ids=str)
def test_every_activation_of_torch(kind):
    x = 3 * torch.randn(200, 4, dtype=torch.float64)
    holds(kind().eval().double(), Box.about(x, torch.rand_like(x)), 16)
    changed = type(kind.__name__, (kind,), {"forward": lambda self, x: x * x})()
    with pytest.raises(NotImplementedError, match=f"no interval bounds of {kind.__name__}"):
        interval(changed, Box(x, x))


def test_a_threshold_jumps():
    box = Box(torch.tensor([0.0, 0.0, 2.0]), torch.tensor([0.5, 2.0, 3.0]))
    found = interval(nn.Threshold(1.0, -7.0), box)
    assert found.low.tolist() == [-7, -7, 2]
    assert found.high.tolist() == [-7, 2, 3]


LEVELS = ["relu", "gelu", "silu", "mish", "hardswish", "elu", "leaky_relu", "tanh", "normal"]


@pytest.mark.parametrize("levels", [*LEVELS, "uniform", "steps", "table"])
@pytest.mark.parametrize("smooth", [True, False])
def test_qact_is_exact(levels, smooth):
    torch.manual_seed(0)
    layer = qact.QAct(3, levels=levels, smooth=smooth)
    layer(torch.randn(500, 3) * torch.tensor([1.0, 5.0, 0.1]))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
        if levels == "table":  # smooth enough for a few hundred points to find its turns
            layer.table.copy_(torch.sin(torch.linspace(0, 9, 33)) * torch.randn(3, 1))
    layer.eval()
    x = torch.randn(30, 3) * torch.tensor([1.0, 5.0, 0.1])
    box = Box.about(x, x.abs() * torch.rand(30, 3))
    bounds, seen = holds(layer, box, 400, slack=2e-6)
    torch.testing.assert_close(bounds.low, seen.low, rtol=0, atol=0.02)
    torch.testing.assert_close(bounds.high, seen.high, rtol=0, atol=0.02)


@pytest.mark.parametrize("options", [{}, {"after": True}, {"levels": "gelu", "after": True}])
def test_norms_around_it(options):
    torch.manual_seed(0)
    layer = qact.NormedQAct(4, dim=-1, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    layer(torch.randn(50, 7, 4) + 1)
    layer.eval()
    holds(layer, Box.about(torch.randn(20, 7, 4), torch.rand(20, 7, 4)), 200, slack=1e-4)


def test_topk_by_hand():
    box = Box(torch.tensor([[0.0, 2.0, -1.0, 1.0]]), torch.tensor([[1.5, 3.0, 0.5, 4.0]]))
    found = interval(qact.activation("topk", k=2), box)
    assert found.low.tolist() == [[0, 2, 0, 0]]
    assert found.high.tolist() == [[1.5, 3, 0, 4]]


def test_refusals():
    box = Box(torch.zeros(2, C), torch.ones(2, C))
    with pytest.raises(NotImplementedError, match="no interval bounds of Softmax"):
        interval(nn.Softmax(), box)
    for name in ("dice", "smartmixed"):
        with pytest.raises(NotImplementedError, match=r"use eval\(\)"):
            interval(qact.activation(name, C).train(), box)
    layer = made("qact", context="batch").float()
    with pytest.raises(NotImplementedError, match="reads its batch"):
        interval(layer, box)
    with pytest.raises(RuntimeError, match="seen no data"):
        interval(qact.QAct(C).eval(), box)
    with pytest.raises(NotImplementedError, match="of the level 'sin'"):
        interval(made("qact", levels=torch.sin).float(), box)
    with pytest.raises(NotImplementedError, match="transport of strength 2"):
        interval(made("transported", strength=2.0), box)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_kink_under_a_norm_is_bounded_as_it_is_read_with_a_gradient_and_without(sign):
    torch.manual_seed(0)
    layer = qact.NormedQAct(4, dim=-1, after=True)
    with torch.no_grad():
        layer.quantile.bias -= 1.2
        layer.norm_out.weight *= sign
    layer(torch.randn(50, 7, 4))
    layer.eval()
    ends = torch.linspace(-3, 3, 2001)[:, None].expand(-1, 4)
    bounds = interval(layer, Box(ends - 0.3, ends))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            for y in (layer(ends), layer(ends - 0.3)):
                assert (bounds.low - 2e-6 <= y).all()
                assert (y <= bounds.high + 2e-6).all()
