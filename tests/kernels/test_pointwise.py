"""Formulas compiled to one pass: the values and gradients of the plain float64 formula."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import scipy.special
import torch
from torch import nn

import qact
from qact.activations import fused

pytest.importorskip("numba")
from numba import njit

from qact.kernels.cpu import elementary, generated, lowering, paired, pointwise

C = 6
# Every activation that is a formula of one number, and a few of all shapes of parameters.
FORMULAS = {
    "aglu": {},
    "apa": {},
    "aptx": {},
    "clipact": {"threshold": 1.5},
    "clipped_shifted_relu": {},
    "clipped_soft_threshold": {},
    "crrelu": {},
    "fitact": {"bound": 1.0},
    "golu": {},
    "pau": {},
    "polyrelu": {},
    "proact": {"bound": 1.0},
    "swish": {},
    "tempered_sigmoid": {},
    "tmaf": {},
    "xatlu": {},
    "xgelu": {},
    "xsilu": {},
}


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Compile for small tensors too."""
    monkeypatch.setattr(fused, "COMPILED", 0)


def run(module, x, slope):
    x = x.detach().requires_grad_()
    y = module(x)
    y.backward(slope)
    return [y.detach(), x.grad, *(p.grad for p in module.parameters() if p.requires_grad)]


def spoilt(parameters):
    """Parameters off their start, where derivatives vanish or functions have a simpler form."""
    with torch.no_grad():
        for p in parameters:
            p.add_(0.05 * torch.randn_like(p))


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "other gradient"])
def test_values_and_gradients(name, layout, monkeypatch):
    torch.manual_seed(0)
    module = qact.activation(name, C, **FORMULAS[name])
    spoilt(module.parameters())
    x, slope = 2 * torch.randn(3, C, 9, 8), torch.randn(3, C, 9, 8)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "other gradient":
        slope = slope.transpose(0, 3).contiguous().transpose(0, 3)
    calls = []
    original = pointwise.Pointwise.backward
    monkeypatch.setattr(
        pointwise.Pointwise,
        "backward",
        lambda self, *a: calls.append(1) or original(self, *a),
    )
    exact = run(copy.deepcopy(module).double(), x.double(), slope.double())
    assert not calls  # float64 is PyTorch's
    found = run(module, x, slope)
    by_channel = name in ("fitact", "tmaf")  # whose rows are not contiguous with channels last
    assert len(calls) == (0 if by_channel and layout == "channels_last" else 1)
    assert found[1].stride() == x.stride()
    for got, want in zip(found, exact, strict=True):
        scale = max(1.0, want.abs().max().item())
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=2e-5 * scale)


@pytest.mark.parametrize(
    "name", ["drelu", "geglu", "glu", "maxout", "reglu", "simple_gate", "swiglu"]
)
@pytest.mark.parametrize("layout", ["contiguous", "last", "other gradient"])
def test_gates(name, layout, monkeypatch):
    torch.manual_seed(0)
    module = qact.activation(name, dim=-1 if layout == "last" else 1)
    shape = (3, 5, 8) if layout == "last" else (3, 8, 5, 7)
    x = torch.randn(shape)
    slope = torch.randn_like(module(x))
    if layout == "other gradient":
        slope = slope.transpose(0, 1).contiguous().transpose(0, 1)
    calls = []
    original = paired.Paired.backward
    monkeypatch.setattr(
        paired.Paired, "backward", lambda self, *a: calls.append(1) or original(self, *a)
    )
    exact = run(copy.deepcopy(module), x.double(), slope.double())
    assert not calls
    found = run(module, x, slope)
    assert len(calls) == 1
    for got, want in zip(found, exact, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)


def test_a_tie_of_maxout_goes_to_the_first():
    x = torch.ones(1, 2, 3, requires_grad=True)
    qact.activation("maxout")(x).sum().backward()
    assert torch.equal(x.grad, torch.tensor([[[1.0] * 3, [0.0] * 3]]))


@pytest.mark.parametrize("name", ["swiglu", "golu"])
def test_second_derivatives_are_those_of_the_formula(name):
    module = qact.activation(name)
    x = torch.randn(2, 4, 3, requires_grad=True)
    (first,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    xd = x.detach().double().requires_grad_()
    (first,) = torch.autograd.grad(module(xd).sum(), xd, create_graph=True)
    (want,) = torch.autograd.grad(first.square().sum(), xd)
    torch.testing.assert_close(second.double(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads):
    torch.manual_seed(0)
    module = qact.activation("pau")
    x, slope = torch.randn(5, 41, 700), torch.randn(5, 41, 700)
    before = torch.get_num_threads()
    results = []
    for n in (1, threads):
        torch.set_num_threads(n)
        results.append(run(copy.deepcopy(module), x, slope))
    torch.set_num_threads(before)
    for one, many in zip(*results, strict=True):
        assert torch.equal(one, many)


@pytest.mark.parametrize("name", ["golu", "aptx", "swish", "xatlu", "polyrelu", "tmaf"])
def test_what_is_not_a_number_stays_so(name):
    x = torch.tensor([1.0, math.nan, -1.0, 0.0] * 8)
    y = qact.activation(name)(x)
    assert torch.equal(y.isnan(), x.isnan())


def test_large_values_do_not_overflow():
    x = torch.tensor([-1e4, -88.0, 88.0, 1e4])
    for name in ("golu", "aptx", "swish", "xgelu", "aglu", "crrelu"):
        y = qact.activation(name)(x).detach()
        torch.testing.assert_close(y, x.clamp_min(0), atol=1e-3, rtol=0)


ELEMENTARY = {
    "exp": (np.exp, -87, 88),
    "log": (np.log, 1e-30, 1e30),
    "sigmoid": (scipy.special.expit, -100, 100),
    "tanh": (np.tanh, -100, 100),
    "softplus": (lambda x: np.logaddexp(0, x), -80, 100),
    "erfc": (scipy.special.erfc, -6, 6),
    "atan": (np.arctan, -100, 100),
    "sign": (np.sign, -2, 2),
}


@pytest.mark.parametrize("name", ELEMENTARY)
def test_elementary_functions(name):
    reference, low, high = ELEMENTARY[name]
    function = getattr(elementary, name)

    @njit
    def mapped(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    x = np.concatenate([np.linspace(low, high, 20_001), np.linspace(max(low, -1), 1, 2_001)])
    x = np.append(x, [math.nan]).astype(np.float32)
    y = np.empty_like(x)
    mapped(x, y)
    with np.errstate(invalid="ignore"):
        want = reference(x.astype(np.float64))
    np.testing.assert_allclose(y, want, rtol=4e-6 if name == "erfc" else 5e-7, atol=6e-7)


def test_a_formula_with_another_operation_is_left_to_torch():
    with pytest.raises(lowering.LoweringError, match=r"no line stands for .*cumsum"):
        lowering.lower(lambda x: torch.cumsum(x, 0), ["x"])
    x = torch.randn(100, requires_grad=True)
    y = fused.fused(lambda x: torch.special.i0(x), lambda x: (torch.special.i1(x),), x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.special.i1(x.detach()))


def test_an_altered_file_is_written_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("QACT_CACHE_DIR", str(tmp_path))
    generated._folder.cache_clear()
    try:
        first = generated.load("answer = 1\n")
        path = tmp_path / f"{first.__name__}.py"
        path.write_text("answer = 2\n")
        assert generated.load("answer = 1\n").answer == 1
        assert path.read_text() == "answer = 1\n"
        monkeypatch.setenv("QACT_CACHE_DIR", str(path / "no folder"))
        generated._folder.cache_clear()
        assert generated.load("answer = 3\n").answer == 3
    finally:
        generated._folder.cache_clear()


def test_a_module_can_be_copied_and_trained_on():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), qact.activation("swish"), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y = torch.randn(64, 8), torch.randn(64, 1)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
