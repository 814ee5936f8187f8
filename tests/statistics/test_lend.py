"""`adapting`: what it changes inside, that nothing is left outside, BatchNorms by the formula."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact import QAct, adapting


def network(norms: bool = True) -> nn.Sequential:
    """A small trained network with both kinds of layers."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4) if norms else nn.Identity(),
        QAct(4),
        nn.Flatten(),
        nn.Linear(4 * 16, 5),
        nn.BatchNorm1d(5) if norms else nn.Identity(),
        QAct.paper(5),
    )
    for _ in range(5):
        model(torch.randn(32, 3, 6, 6))
    return model.eval()


def trace(model: nn.Module) -> dict:
    """All that a block might leave behind."""
    seen = {f"state {k}": v.clone() for k, v in model.state_dict().items()}
    for name, module in model.named_modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            seen[f"hooks {name} {len(seen)}"] = torch.tensor(len(hooks))
        seen[f"always {name}"] = torch.tensor(len(module._forward_hooks_always_called))
        seen[f"keys {name}"] = sorted(module.__dict__)
        seen[f"training {name}"] = module.training
        if isinstance(module, QAct):
            seen[f"mode {name}"] = (module.mode, module.prior)
    return seen


def assert_no_trace(model: nn.Module, before: dict) -> None:
    after = trace(model)
    assert before.keys() == after.keys()
    for key, value in before.items():
        same = torch.equal(value, after[key]) if isinstance(value, Tensor) else value == after[key]
        assert same, key


X = torch.randn(24, 3, 6, 6, generator=torch.Generator().manual_seed(5)) * 2 + 1


@pytest.mark.parametrize("context", ["batch", "mixed", "running"])
def test_nothing_is_left_behind(context):
    model = network()
    before, want = trace(model), model(X)
    with adapting(model, context, prior=5.0) as same:
        assert same is model
        inside = model(X)
        assert list(model.state_dict()) == [k[6:] for k in before if k.startswith("state ")]
    assert_no_trace(model, before)
    assert torch.equal(model(X), want)
    assert torch.equal(inside, want) == (context == "running")


@pytest.mark.parametrize("context", ["batch", "mixed"])
def test_nothing_is_left_behind_by_an_exception(context):
    model = network()
    before, want = trace(model), model(X)

    def interrupted():
        with adapting(model, context):
            model(X)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert_no_trace(model, before)
    assert torch.equal(model(X), want)


def test_nothing_is_left_behind_by_an_exception_inside_a_layer():
    model = network()
    before = trace(model)
    # The BatchNorm itself fails, with its statistics lent out.
    model[1].weight.data = model[1].weight.data[:2]
    with pytest.raises(RuntimeError), adapting(model):
        model(X)
    model[1].weight.data = torch.ones(4)
    assert_no_trace(model, before)
    with adapting(model), pytest.raises(ValueError, match="4D"):
        model[1](torch.randn(4, 4))
    assert_no_trace(model, before)
    # And a block goes on after an error inside it.
    with adapting(model):
        with pytest.raises(RuntimeError):
            model(torch.randn(4, 2, 6, 6))
        model(X)
    assert_no_trace(model, before)


def test_layers_read_the_batch():
    layer = QAct(3, levels="gelu")
    layer(torch.randn(64, 3))
    z = torch.randn(40, 3) * 5 + 3
    twin = copy.deepcopy(layer).train()
    with adapting(layer.eval()):
        assert torch.equal(layer(z), twin(z))
    mixed = copy.deepcopy(layer)
    mixed.mode, mixed.prior = "mixed", 9.0
    with adapting(layer, "mixed", prior=9.0):
        assert torch.equal(layer(z), mixed(z))
    with adapting(layer, "mixed"):
        mixed.prior = layer.prior
        assert torch.equal(layer(z), mixed(z))


def test_a_layer_that_reads_its_batch_can_be_told_to_run():
    layer = QAct(3, context="batch")
    layer(torch.randn(64, 3))
    z = torch.randn(9, 3)
    with adapting(layer.eval(), "running"):
        assert torch.equal(layer(z)[:1], layer(z[:1]))
    assert layer.mode == "batch"


def test_blocks_nest_and_the_innermost_holds():
    model = network()
    before, running = trace(model), model(X)
    with adapting(model, "batch"):
        batch = model(X)
        with adapting(model, "running"):
            assert torch.equal(model(X), running)
            with adapting(model, "mixed", prior=3.0):
                mixed = model(X)
            assert torch.equal(model(X), running)
        assert torch.equal(model(X), batch)
        with pytest.raises(ZeroDivisionError), adapting(model, "mixed"):
            raise ZeroDivisionError
        assert torch.equal(model(X), batch)
    assert_no_trace(model, before)
    with adapting(model, "mixed", prior=3.0):
        assert torch.equal(model(X), mixed)
    assert not torch.equal(mixed, batch)


def test_a_part_of_a_model_can_be_adapted_alone():
    model = network()
    with adapting(model), adapting(model[2], "running"):
        assert model[2].mode == "running"
        assert model[6].quantile.mode == "batch"
    assert model[6].quantile.mode == "running"


NORMS = [
    (nn.BatchNorm1d, (24, 4)),
    (nn.BatchNorm1d, (24, 4, 5)),
    (nn.BatchNorm2d, (24, 4, 5, 5)),
    (nn.BatchNorm3d, (24, 4, 3, 3, 3)),
]


def norm_layer(kind, shape, **options):
    norm = kind(4, **options)
    with torch.no_grad():
        if norm.affine:
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
    for _ in range(5):
        norm(torch.randn(shape))
    return norm.eval()


@pytest.mark.parametrize(("kind", "shape"), NORMS)
@pytest.mark.parametrize("affine", [True, False])
def test_norms_by_the_batch(kind, shape, affine):
    norm = norm_layer(kind, shape, affine=affine)
    z = torch.randn(shape) * 3 + 2
    before = trace(norm)
    with adapting(norm):
        got = norm(z)
    want = F.batch_norm(z, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert_no_trace(norm, before)


@pytest.mark.parametrize(("kind", "shape"), NORMS)
@pytest.mark.parametrize("prior", [None, 1.0, 100.0])
def test_norms_mixed_by_the_formula(kind, shape, prior):
    norm = norm_layer(kind, shape)
    z = torch.randn(shape) * 3 + 2
    with adapting(norm, "mixed", prior=prior):
        got = norm(z)
    share = shape[0] / (shape[0] + (16.0 if prior is None else prior))
    flat = z.movedim(1, -1).reshape(-1, 4)
    old = norm.running_mean, norm.running_var
    # Mean and variance of the union of two sets that weigh (share, 1 - share).
    mean = share * flat.mean(0) + (1 - share) * old[0]
    second = share * (flat**2).mean(0) + (1 - share) * (old[1] + old[0] ** 2)
    variance = second - mean**2
    want = F.batch_norm(z, mean, variance, norm.weight, norm.bias, eps=norm.eps)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_a_large_prior_is_running_and_a_small_one_is_batch():
    norm = norm_layer(nn.BatchNorm2d, (24, 4, 5, 5))
    z = torch.randn(24, 4, 5, 5) * 3 + 2
    running = norm(z)
    with adapting(norm):
        batch = norm(z)
    for prior, want in ((1e7, running), (1e-6, batch)):
        with adapting(norm, "mixed", prior=prior):
            torch.testing.assert_close(norm(z), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_norms_in_other_precisions(dtype):
    norm = norm_layer(nn.BatchNorm1d, (64, 4)).to(dtype)
    z = torch.randn(64, 4).to(dtype) * 3 + 2
    with adapting(norm):
        got = norm(z)
    assert got.dtype == dtype
    scale, shift = norm.weight.double(), norm.bias.double()
    want = F.batch_norm(z.double(), None, None, scale, shift, training=True, eps=norm.eps)
    bound = {torch.float64: 1e-12, torch.float16: 1e-2, torch.bfloat16: 8e-2}[dtype]
    assert (got.double() - want).abs().max().item() <= bound


def test_norms_can_be_left_alone():
    model = network()
    with adapting(model, norms=False):
        hidden = model[1](model[0](X))
        assert model[2].mode == "batch"
    assert torch.equal(hidden, model[1](model[0](X)))


def test_norms_without_running_statistics_are_unchanged():
    norm = nn.BatchNorm2d(4, track_running_stats=False).eval()
    z = torch.randn(8, 4, 3, 3)
    want = norm(z)
    for context in ("batch", "mixed", "running"):
        with adapting(norm, context):
            assert torch.equal(norm(z), want)


def test_a_training_norm_is_unchanged():
    norm = norm_layer(nn.BatchNorm2d, (24, 4, 5, 5)).train()
    twin = copy.deepcopy(norm)
    z = torch.randn(24, 4, 5, 5)
    with adapting(norm):
        got = norm(z)
    assert torch.equal(got, twin(z))
    for (key, a), b in zip(norm.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_a_norm_that_is_called_by_keyword():
    norm = norm_layer(nn.BatchNorm1d, (24, 4))
    z = torch.randn(24, 4) * 3
    with adapting(norm):
        assert torch.equal(norm(input=z), norm(z))


def test_the_hooks_of_others_stay_and_run():
    model = network()
    calls = []
    handles = [
        model[1].register_forward_pre_hook(lambda m, a: calls.append("pre")),
        model[1].register_forward_hook(lambda m, a, o: calls.append("post")),
    ]
    with adapting(model):
        model(X)
    model(X)
    assert calls == ["pre", "post"] * 2
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("context", ["batch", "mixed"])
def test_without_gradients(mode, context):
    model = network()
    before = trace(model)
    with adapting(model, context):
        want = model(X)
        with mode():
            got = model(X)
    torch.testing.assert_close(got, want.detach(), atol=1e-6, rtol=0)
    with mode(), adapting(model, context):
        again = model(X)
    assert torch.equal(again, got)
    assert_no_trace(model, before)
    # Buffers are still those that training can go on with.
    model.train()(X).sum().backward()


def test_gradients_reach_the_parameters_inside():
    model = network()
    with adapting(model):
        model(X).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name


def test_a_copy_made_inside_works_and_leaves_the_original_alone():
    model = network()
    before, running = trace(model), model(X)
    with adapting(model):
        batch = model(X)
        twin = copy.deepcopy(model)
        assert torch.equal(twin(X), batch)
    assert_no_trace(model, before)
    assert torch.equal(model(X), running)
    with adapting(twin, "running"):
        assert torch.equal(twin(X), running)
    for key, value in twin.state_dict().items():
        assert torch.equal(value, before[f"state {key}"])


def test_a_state_saved_inside_is_the_state_outside():
    model = network()
    outside = {k: v.clone() for k, v in model.state_dict().items()}
    with adapting(model):
        model(X)
        inside = model.state_dict()
        assert inside.keys() == outside.keys()
        assert all(torch.equal(inside[k], outside[k]) for k in outside)


def test_one_layer_in_two_places_is_restored_once():
    layer = QAct(4)
    model = nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 4), layer)
    model(torch.randn(16, 4))
    model.eval()
    before = trace(model)
    with adapting(model):
        assert layer.mode == "batch"
        model(torch.randn(16, 4))
    assert_no_trace(model, before)


def test_a_model_without_either_is_left_as_it_is():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    z = torch.randn(5, 3)
    with adapting(model):
        assert torch.equal(model(z), model(z))


@pytest.mark.parametrize("bad", ["test", "", None, 3])
def test_a_bad_context_is_repeated_and_changes_nothing(bad):
    model = network()
    before = trace(model)
    with pytest.raises((ValueError, TypeError), match=re.escape(repr(bad))), adapting(model, bad):
        pass
    assert_no_trace(model, before)


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf, "few"])
def test_a_bad_prior_is_repeated(bad):
    with pytest.raises((ValueError, TypeError), match=re.escape(repr(bad))):
        adapting(network(norms=False), "mixed", prior=bad).__enter__()
