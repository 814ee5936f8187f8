"""Contexts as observers of torchao: its own min-max observer is the oracle."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

import qact
from qact import extras
from qact.integrations.torchao import context_observer
from qact.taps import clip_range

X = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)) ** 3


@pytest.fixture(scope="module")
def pt2e():
    pytest.importorskip("torchao", "0.18")
    from torchao.quantization.pt2e import MinMaxObserver, quantize_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer

    return MinMaxObserver, quantize_pt2e, x86_inductor_quantizer


def observed(observer, x=X):
    observer(x)
    return observer.calculate_qparams()


def test_min_max_is_torchaos_own(pt2e):
    options = {"dtype": torch.uint8, "quant_min": 0, "quant_max": 255}
    scale, zero = observed(context_observer(clip="minmax", bins=512)(**options))
    right, right_zero = observed(pt2e[0](**options))
    assert scale.item() == pytest.approx(right.item(), rel=0.01)
    assert abs(int(zero) - int(right_zero)) <= 1


def test_a_stored_context_needs_no_pass(pt2e):
    net = nn.Sequential(nn.Identity())
    contexts = qact.tap(net, "0").observe()
    contexts.run(X)
    made = context_observer(contexts["0"])(dtype=torch.uint8, quant_min=0, quant_max=255)
    assert torch.equal(made(100 * X), 100 * X)
    low, high = clip_range(contexts["0"], 8, "mse")
    assert made.calculate_qparams()[0].item() == pytest.approx((high - low) / 255)


@pytest.mark.parametrize("clip", ["minmax", "quantile", "mse"])
def test_a_network_is_quantised_by_it(pt2e, clip):
    _, quantize, x86 = pt2e
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    default = x86.get_default_x86_inductor_quantization_config()
    spec = replace(default.input_activation, observer_or_fake_quant_ctr=context_observer(clip=clip))
    quantizer = x86.X86InductorQuantizer().set_global(replace(default, input_activation=spec))
    prepared = quantize.prepare_pt2e(torch.export.export(net, (X,)).module(), quantizer)
    assert any(type(m).__name__ == "ContextObserver" for m in prepared.modules())
    prepared(X)
    made = quantize.convert_pt2e(prepared)
    with torch.no_grad():
        gap, size = (made(X) - net(X)).abs().mean(), net(X).abs().mean()
    assert 0 < gap < 0.05 * size


def test_refusals(monkeypatch):
    with pytest.raises(ValueError, match="clip='best'"):
        context_observer(clip="best")
    with pytest.raises(RuntimeError):
        context_observer(qact.Context(3))
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchao"] or ["torchao"]:
        monkeypatch.setitem(sys.modules, name, None)
    from qact.integrations import torchao as module

    module._observer.cache_clear()
    with pytest.raises(extras.MissingExtraError, match="an observer for torchao needs torchao"):
        context_observer()
    module._observer.cache_clear()
