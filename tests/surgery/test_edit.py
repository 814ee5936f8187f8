"""Edits that errors undo, attributes lent innermost, modes that come back part by part."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from itertools import permutations

import pytest
import torch
from torch import nn

import qact
from qact.activations.resilience import accuracy, clip_search_, fit_bounds_, progressive_bounds_
from qact.surgery import Edit, evaluating, hooking, lending, lent


def patchwork() -> nn.Sequential:
    """A model in training with frozen parts, as fine-tuning has it."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.ReLU())
    model.add_module("head", nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5).eval()))
    model[1].eval().bias.requires_grad_(False)
    return model


def modes(model: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


X, Y = torch.randn(32, 4), torch.arange(32) % 2


def _broken(model: nn.Module) -> None:
    raise KeyboardInterrupt


USES = {
    "evaluating": lambda m: _through(m),
    "record": lambda m: qact.record(m, X),
    "record, broken": lambda m: qact.record(m, [X, X * torch.nan]),
    "convert": lambda m: qact.convert(m, example_inputs=X),
    "warm start": lambda m: qact.convert(m, warm_start=X),
    "accuracy": lambda m: accuracy(m, [(X, Y)]),
    "clip": lambda m: clip_search_(m, [(X, Y)], lambda net: accuracy(net, [(X, Y)]), rounds=1),
    "fit": lambda m: fit_bounds_(m, [(X, Y)], epochs=1),
    "progressive": lambda m: progressive_bounds_(m, [(X, Y)], epochs=1),
    "score breaks": lambda m: clip_search_(m, [(X, Y)], _broken),
    "method": lambda m: qact.adapt.create("tent", m, inplace=True).release(),
    "fails": lambda m: qact.adapt.create("lame", m, inplace=True, affinity="none").release(),
}


def _through(model: nn.Module) -> None:
    with evaluating(model):
        assert not any(modes(model).values())
        raise RuntimeError


@pytest.mark.parametrize("use", USES)
def test_every_flag_of_training_comes_back(use):
    model = patchwork()
    before, statistics = modes(model), model[1].running_mean.clone()
    with suppress(ValueError, TypeError, RuntimeError, KeyboardInterrupt):
        USES[use](model)
    after = modes(model)
    assert {name: after[name] for name in before if name in after} == before
    assert torch.equal(model[1].running_mean, statistics)
    assert all(p.requires_grad == (n != "1.bias") for n, p in model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_an_error_in_a_search_puts_every_relu_back():
    model = patchwork()
    relu = model[3]
    with suppress(KeyboardInterrupt):
        clip_search_(model, [(X, Y)], _broken)
    assert model[3] is relu


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_innermost_value_holds_in_whatever_order_blocks_end(order):
    layer = nn.Identity()
    blocks = [lending(layer, "_x", value) for value in (5, 1, 1)]
    for block in blocks:
        block.__enter__()
    left = [0, 1, 2]
    for place in order:
        assert lent(layer, "_x") == (5, 1, 1)[left[-1]]
        blocks[place].__exit__(None, None, None)
        left.remove(place)
    assert lent(layer, "_x") is None
    assert "_x" not in vars(layer)


def test_an_error_takes_every_step_back_in_reverse():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    linear, relu = model[0], model[1]
    linear.note = "old"

    class Other(nn.Linear):
        pass

    def edited() -> None:
        with Edit() as edit:
            edit.replace(model, "1", nn.GELU())
            edit.put(model, "1", nn.SiLU())
            edit.put(model, "2", nn.Identity())
            edit.become(linear, Other)
            edit.set(linear, "note", "new")
            edit.set(linear, "more", 1)
            assert isinstance(model[1], nn.SiLU)
            raise KeyError

    with pytest.raises(KeyError):
        edited()
    assert list(model) == [linear, relu]
    assert type(linear) is nn.Linear
    assert linear.note == "old"
    assert not hasattr(linear, "more")


def test_hooks_end_with_their_block():
    model = nn.Sequential(nn.ReLU(), nn.ReLU())
    with suppress(KeyError), hooking(model) as hooks:
        for layer in model:
            hooks.enter_context(layer.register_forward_hook(lambda *a: None))
        assert len(model[0]._forward_hooks) == 1
        raise KeyError
    assert not any(layer._forward_hooks for layer in model)


def test_blocks_of_recalibration_hold_innermost_in_whatever_order_they_end():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)).eval()
    x = torch.randn(64, 4)
    qact.record(model, x)
    clean = model(x + 1)
    with qact.recalibrated(model, "batch"):
        batch = model(x + 1)
    outer, inner = ExitStack(), ExitStack()
    outer.enter_context(qact.recalibrated(model, "mixed", prior=1e9))
    far = model(x + 1)
    inner.enter_context(qact.recalibrated(model, "batch"))
    assert torch.equal(model(x + 1), batch)
    outer.close()
    assert torch.equal(model(x + 1), batch)
    inner.close()
    assert torch.equal(model(x + 1), clean)
    assert not torch.equal(far, batch)
