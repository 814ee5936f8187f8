"""Bad input: a clear error, and the model as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qact


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 2))


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def state_of(model: nn.Module) -> tuple:
    classes = [(name, id(type(m)), id(m), m.training) for name, m in model.named_modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    plain = [sorted(vars(m)) for m in model.modules()]
    return str(model), classes, hooks, plain, copy.deepcopy(list(model.state_dict().items()))


def assert_unchanged(model: nn.Module, before: tuple) -> None:
    after = state_of(model)
    assert after[:4] == before[:4]
    for (name, value), (old_name, old) in zip(after[4], before[4], strict=True):
        assert name == old_name
        assert torch.equal(value, old)


def raising(module, name):
    raise KeyError("mine")


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"where": nn.Mish}, ValueError, "no activation.*Mish.*it has 1 .ReLU., 3 .GELU."),
        ({"where": "layer4.*"}, ValueError, "no activation matches where='layer4"),
        ({"where": lambda m, n: False}, ValueError, "no activation"),
        ({"where": lambda m, n: None}, TypeError, "returned None for '1' .ReLU.*True or False"),
        ({"where": lambda m, n: 1}, TypeError, "returned 1"),
        ({"where": lambda n: True}, ValueError, "raised TypeError.*where.module, name."),
        ({"where": raising}, ValueError, "raised KeyError"),
        ({"where": 3}, TypeError, "where=3"),
        ({"where": nn.ReLU()}, TypeError, "where=ReLU"),
        ({"where": ()}, ValueError, r"where=\(\)"),
        ({"where": ("a", 4)}, TypeError, "where=4"),
        ({"to": "quact"}, ValueError, "unknown activation 'quact'"),
        ({"to": "reglu"}, ValueError, "halves its channels"),
        ({"to": nn.Mish()}, TypeError, "to=Mish"),
        ({"to": None}, TypeError, "to=None"),
        ({"to": lambda: 3}, TypeError, "returned 3"),
        ({"to": lambda a, b: nn.ReLU()}, TypeError, "cannot be made for '1'"),
        ({"to": (lambda made: lambda: made)(nn.Mish())}, ValueError, "same module twice"),
        ({"slope": 3}, TypeError, "slope"),
        ({"where": nn.Linear}, ValueError, "'0' changes the shape"),
        ({"levels": "nothing"}, ValueError, "levels='nothing'"),
        ({"example_inputs": torch.randn(5, 3)}, ValueError, r"does not run on .*\(5, 3\)"),
        ({"example_inputs": {"images": X}}, ValueError, "does not run.*images"),
        ({"warm_start": []}, ValueError, "no batch"),
        ({"warm_start": 3}, TypeError, "warm_start=3"),
        ({"warm_start": print, "example_inputs": None}, ValueError, "give example_inputs"),
        ({"warm_start": [X, torch.randn(5, 3)]}, ValueError, "does not run"),
        ({"warm_start": X, "to": "golu"}, TypeError, "leave warm_start out"),
        ({"warm_start": X * torch.nan}, ValueError, "nothing finite"),
        ({"to": "dice", "example_inputs": None}, ValueError, "example_inputs"),
    ],
)
def test_the_error_names_what_is_wrong_and_nothing_changes(arguments, error, match, in_place):
    model = net()
    model[1].register_forward_hook(lambda *a: None)
    model[2].eval()
    before = state_of(model)
    function = qact.convert_ if in_place else qact.convert
    with pytest.raises(error, match=match):
        function(model, **({"example_inputs": X} | arguments))
    assert_unchanged(model, before)


class Changing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 8)
        self.block = nn.Sequential(nn.ReLU())

    def forward(self, x):
        return self.block(self.b(self.block(self.a(x))))


class Loop(nn.Module):
    """Control flow that depends on the data: no tracer can follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        while x.abs().sum() > 1e9:
            x = x / 2
        return F.relu(self.linear(x))


class Reuse(Loop):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x):
        while x.abs().sum() > 1e9:
            x = x / 2
        return self.act(self.linear(self.act(x)))


class Hidden(nn.Module):
    """Keeps its activation in a list too."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.all = [self.act]

    def forward(self, x):
        return self.all[0](x)


class Overwriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = x * 1
        return self.act(x) * 0 + x


class Counting(nn.Module):
    def forward(self, x):
        return F.relu(x) + torch.tensor([1.0])


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(
    ("model", "match"),
    [
        (Changing(), r"'block.0' \(ReLU\) is called with \[6, 8\] channels"),
        (Loop(), r"'the model' \(Loop\) calls relu.*torch.fx cannot"),
        (Reuse(), "ReLU .again.*torch.fx cannot"),
        (Hidden(), "'act' .ReLU. is at work, but not through this attribute"),
        (Overwriting(), "overwrites its input"),
        (Counting(), "frozen"),
    ],
)
def test_a_forward_that_cannot_be_converted_is_named(model, match, in_place):
    model = nn.Sequential(model) if "'the model'" not in match else model
    match = match.replace("'block.0'", "'0.block.0'").replace("'act'", "'0.act'")
    before = state_of(model)
    with pytest.raises(ValueError, match=match):
        (qact.convert_ if in_place else qact.convert)(model, example_inputs=X)
    assert_unchanged(model, before)


def test_without_inputs_an_untraceable_use_asks_for_them():
    with pytest.raises(ValueError, match=r"'0' \(Reuse\) calls '0.act'.*example_inputs"):
        qact.convert(nn.Sequential(Reuse()).eval())
    with pytest.raises(ValueError, match="give example_inputs"):
        qact.convert(Loop())


def test_what_is_untraceable_and_not_asked_for_does_no_harm():
    model = nn.Sequential(Loop(), nn.GELU())
    new = qact.convert(model, where=nn.GELU, example_inputs=X)
    assert [row.name for row in qact.summary(new).left] == ["0.relu"]


def test_no_module():
    with pytest.raises(TypeError, match="model=3"):
        qact.convert(3)
    with pytest.raises(TypeError, match="scripted"):
        qact.convert(torch.jit.trace(net(), X))
    with pytest.raises(TypeError, match="model=3"):
        qact.summary(3)


def test_channels_that_change_later_are_refused_by_the_layer():
    new = qact.convert(Changing().block)
    new(torch.randn(5, 6))
    with pytest.raises(ValueError, match="has 8 channels"):
        new(torch.randn(5, 8))


def test_an_activation_that_no_input_reaches():
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.spare = nn.ReLU(), nn.SELU()

        def forward(self, x):
            return self.act(x)

    new = qact.convert(Idle(), example_inputs=X)
    assert [(row.name, row.note) for row in qact.summary(new).left] == [
        ("spare", "not reached by the example inputs")
    ]
    with pytest.raises(ValueError, match=r"reach none.*'spare'"):
        qact.convert(Idle(), where="spare", example_inputs=X)


def test_a_norm_with_its_activation_inside_is_named():
    class InplaceAbn(nn.BatchNorm1d):
        pass

    model = nn.Sequential(nn.Linear(4, 4), InplaceAbn(4))
    with pytest.raises(ValueError, match="InplaceAbn holds its activation inside"):
        qact.convert(model, example_inputs=X)
    new = qact.convert(nn.Sequential(*model, nn.ReLU()), example_inputs=X)
    assert qact.summary(new).left[0].note == "norm and activation are one operation"
