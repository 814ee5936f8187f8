"""How methods are made, saved, copied and given back: nothing of the model is lost on the way."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

import qact
from qact import adapt
from qact.adapt.rows import finite_rows

NAMES = adapt.methods()
X = 2 * torch.randn(9, 1, 6, 6, generator=torch.Generator().manual_seed(3)) + 1


def network() -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    )
    for _ in range(5):
        model(torch.randn(32, 1, 6, 6))
    return model.eval()


def create(name: str, model: nn.Module | None = None, **options: object) -> adapt.Method:
    own = {"cotta": {"views": 2}, "aqr": {"source": X}, "eata": {"source": X}}.get(name, {})
    if name in ("rotta", "note", "safe"):
        own = {"every": 4}
    return adapt.create(name, network() if model is None else model, **own, **options)


def flags(model: nn.Module) -> list[bool]:
    return [m.training for m in model.modules()] + [p.requires_grad for p in model.parameters()]


def half_frozen() -> nn.Sequential:
    model = network().train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_it_may_be_made_in_inference_mode(name):
    with torch.inference_mode():
        inside = create(name)  # the model is made of inference tensors, too
        first = inside(X + 0)
        inside.reset()
    torch.testing.assert_close(first.clone(), create(name)(X))


@pytest.mark.parametrize("name", NAMES)
def test_a_deep_copy_goes_on_alike_and_alone(name):
    method = create(name)
    method(X)
    twin = copy.deepcopy(method)
    for x in (X.flip(0), X):
        assert torch.equal(method(x), twin(x))
    assert {id(p) for p in method.parameters()}.isdisjoint(id(p) for p in twin.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_is_loaded_stays(name):
    options = {"lr": 0.05} if "lr" in adapt.entry(name).options() else {}
    method = create(name, **options)
    for _ in range(3):
        method(X)
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    other = create(name, **options)
    other.load_state_dict(torch.load(file, weights_only=True))
    reached = method.model.state_dict()
    before = {k: v.clone() for k, v in other.model.state_dict().items()}
    assert all(torch.equal(before[k], reached[k]) for k in reached)
    other(X[:1])  # one sample moves little or nothing; it must not put the source back
    source = network().state_dict()
    moved = [k for k in source if not torch.equal(source[k], before[k])]
    assert not any(torch.equal(source[k], other.model.state_dict()[k]) for k in moved)
    other.reset()
    assert all(torch.equal(source[k], other.model.state_dict()[k]) for k in source)


def test_safe_goes_on_from_a_loaded_memory():
    method, other = create("safe"), create("safe")
    for x in (X, X + 1):
        method(x)
    other.load_state_dict(method.state_dict())
    assert torch.equal(method(X + 2), other(X + 2))


@pytest.mark.parametrize("name", NAMES)
def test_no_part_of_it_ever_trains(name):
    method, twin = create(name), create(name)
    assert method.train() is method
    assert not any(part.training for part in method.modules())
    for _ in range(2):
        assert torch.equal(method(X), twin(X))


def test_a_refused_option_leaves_a_model_in_place_as_it_was():
    model = half_frozen()
    before = flags(model)
    with pytest.raises(ValueError, match="lr=-1"):
        create("tent", model, lr=-1, inplace=True)
    assert flags(model) == before


@pytest.mark.parametrize("fails", [False, True])
def test_each_flag_comes_back(fails):
    model = half_frozen()
    before = flags(model)
    try:
        with create("tent", model, inplace=True) as tent:
            tent(X)
            tent("x" if fails else X)
    except TypeError:
        assert fails
    assert flags(model) == before
    assert [hook for m in model.modules() for hook in m._forward_pre_hooks] == []


@pytest.mark.parametrize("name", ["tent", "eata", "sar", "roid", "delta", "note", "rotta"])
def test_norms_without_scales_are_refused_in_words(name):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"of Sequential.* has a scale or shift to learn"):
        adapt.create(name, model)


def test_sar_says_what_it_leaves_out():
    model = nn.ModuleDict({"norm": nn.LayerNorm(3)})
    with pytest.raises(ValueError, match=r"outside of layer4.*, norm has a scale"):
        adapt.create("sar", model)
    assert adapt.create("sar", model, frozen=()).names == ["norm.weight", "norm.bias"]
    with pytest.raises(TypeError, match="frozen='norm' must be a tuple of names"):
        adapt.create("sar", model, frozen="norm")


@pytest.mark.parametrize("name", NAMES)
def test_it_may_be_moved(name):
    """Another dtype stands for another device: every tensor that is read goes along."""
    method, twin = create(name), create(name)
    for _ in range(2):
        method(X)
    method.double()
    starts = [method._start[k] for k in twin._start]
    assert all(t.dtype == torch.float64 for t in starts if t.is_floating_point())
    torch.testing.assert_close(method(X.double()).float(), twin(X), atol=1e-3, rtol=1e-3)
    after = method(X.double())
    method.double()  # nothing moves, and the stream goes on
    assert method._begun
    method.reset()
    method(X.double())
    assert torch.equal(method(X.double()), after)


def test_two_methods_on_one_model():
    model = network()
    tent, safe = create("tent", model, lr=0.1), create("safe", model)
    alone = create("tent", lr=0.1)
    for _ in range(2):
        safe(X)
        assert torch.equal(tent(X), alone(X))
    assert qact.adapt.entry("safe").options()["caution"] == 3.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_finite_rows_are_those_of_finite_values_whatever_their_sum(dtype):
    largest = torch.finfo(dtype).max
    x = torch.ones(6, 3, 4, dtype=dtype)
    x[0] = largest  # the sum overflows, the values are finite
    x[1, 2, 3], x[2, 0, 1] = torch.inf, torch.nan
    x[3, 0, :2] = torch.tensor([torch.inf, -torch.inf])
    x[4, 0, :2] = torch.tensor([largest, -largest], dtype=dtype)
    assert finite_rows(x).tolist() == [True, False, False, False, True, True]
    assert finite_rows(x[4:]).tolist() == [True, True]
    assert finite_rows(x[:, 0, 0]).tolist() == [True, True, True, False, True, True]
    assert finite_rows(torch.zeros(2, 0, dtype=dtype)).tolist() == [True, True]
