"""Every way in which a model can hold an activation, converted; and what must stay as it was."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qact
from qact import QAct


class Block(nn.Module):
    """One ReLU object used twice, functions of every spelling, a mode, and an optional argument."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.wide = nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, x, scale=None, *, double: bool = False):
        if scale is not None:
            x = x * scale
        x = self.relu(self.conv(x)) + x
        x = self.relu(x)
        x = F.relu(self.wide(x), inplace=True)
        x = F.dropout(x, 0.5, training=self.training)
        x = torch.relu(x - 0.1) + (x - 0.2).relu() + F.gelu(x, approximate="tanh")
        return 2 * x if double else x


def net() -> nn.Sequential:
    return nn.Sequential(Block(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))


NAMES = ("relu", "relu_1", "relu_2", "relu_3", "relu_4", "gelu")


def images(n: int = 6) -> torch.Tensor:
    return torch.randn(n, 4, 5, 5)


def names(model: nn.Module) -> list[str]:
    return [row.name for row in qact.summary(model).converted]


def same_state(model: nn.Module, before: dict) -> bool:
    after = model.state_dict()
    return list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)


def test_every_use_gets_its_own_layer():
    model, x = net(), images()
    before, state, order = copy.deepcopy(model), copy.deepcopy(model.state_dict()), str(model)
    new = qact.convert(model, example_inputs=x)
    block = new[0]
    assert names(new) == [
        f"0.{n}" for n in ("relu", "relu_1", "relu_2", "relu_3", "relu_4", "gelu")
    ]
    assert [getattr(block, n.split(".")[1]).num_features for n in names(new)] == [4, 4, 8, 8, 8, 8]
    assert block.gelu.levels == "gelu"
    assert isinstance(block, Block)
    new(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in new.parameters())
    # The model that was given is as it was.
    assert same_state(model, state)
    assert str(model) == order
    torch.testing.assert_close(model.eval()(x), before.eval()(x))


def test_a_rewritten_forward_keeps_modes_copies_and_pickles():
    new, x = qact.convert(net(), example_inputs=images()), images()
    new(x)
    torch.manual_seed(0)
    a = new(x)
    assert not torch.equal(a, new(x))  # dropout, in training
    new.eval()
    torch.testing.assert_close(new(x), new(x))
    for twin in (copy.deepcopy(new), pickle.loads(pickle.dumps(new))):
        torch.testing.assert_close(twin(x), new(x))
        assert isinstance(twin[0], Block)
        assert twin[0].conv.weight is not new[0].conv.weight


def test_a_rewritten_forward_refuses_what_it_was_not_traced_with():
    new = qact.convert(net(), example_inputs=images())
    with pytest.raises(ValueError, match="scale=None"):
        new[0](images(), torch.ones(1))
    with pytest.raises(ValueError, match="double=False"):
        new[0](images(), double=True)
    new[0](images(), scale=None, double=False)
    model = Block()
    with_scale = qact.convert(model, example_inputs=(images(), torch.ones(1)))
    with_scale(images(), torch.full((1,), 2.0))


def test_without_inputs_channels_come_from_the_first_batch():
    new = qact.convert(net())
    assert len(names(new)) == 6
    new(images())
    assert [getattr(new[0], n.split(".")[1]).num_features for n in names(new)] == [4, 4, 8, 8, 8, 8]
    assert type(new[0].relu) is QAct
    mlp = qact.convert(nn.Sequential(nn.Linear(3, 5), nn.GELU()))
    mlp(torch.randn(4, 7, 3))
    assert (mlp[1].dim, mlp[1].num_features) == (-1, 5)


def test_lists_dicts_sequences_and_shared_objects():
    relu = nn.ReLU()

    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 6)])
            self.acts = nn.ModuleDict({"a": relu, "b": nn.SiLU()})
            self.tail = nn.Sequential(nn.Linear(6, 8), relu, nn.Linear(8, 5), relu)

        def forward(self, x):
            x = self.acts["a"](self.layers[0](x))
            return self.tail(self.acts["b"](self.layers[1](x)))

    for inputs in (torch.randn(3, 4), None):
        new = qact.convert(Many(), example_inputs=inputs)
        assert names(new) == ["acts.a", "acts.b", "tail.1", "tail.3"]
        new(torch.randn(3, 4))
        assert [new.get_submodule(n).num_features for n in names(new)] == [6, 6, 8, 5]


def test_a_block_that_stands_twice_stays_one_block():
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = nn.Sequential(block, block)
    new = qact.convert(model, example_inputs=torch.randn(3, 4))
    assert new[0] is new[1]
    assert names(new) == ["0.1"]


def test_the_root_itself():
    new = qact.convert(nn.ReLU(), example_inputs=images())
    assert type(new) is QAct
    assert new.num_features == 4
    assert len(qact.summary(new).converted) == 1
    with pytest.raises(ValueError, match="itself an activation"):
        qact.convert_(nn.ReLU(), example_inputs=images())


def test_functions_that_a_module_holds():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = torch.randn(3, 5, 8)
    seen: list[int] = []
    for inputs in (x, None):
        new = qact.convert(model, example_inputs=inputs)
        assert names(new) == ["layers.0.activation", "layers.1.activation"]
        y = new(x)
        assert new.layers[0].activation.num_features == 16
        assert new.layers[0].activation.dim == -1
        y.sum().backward()
        # In eval() torch has a fast path, which knows ReLU and GELU alone.
        seen.clear()
        new.layers[0].activation.register_forward_hook(lambda *a: seen.append(1))
        with torch.no_grad():
            new.eval()(x)
        assert seen


@pytest.mark.parametrize(
    ("layers", "shape", "dim"),
    [
        ([nn.Conv1d(4, 6, 1), nn.GELU()], (2, 4, 7), 1),
        ([nn.Linear(4, 6), nn.GELU()], (2, 7, 4), -1),
        ([nn.Linear(4, 6), nn.GELU()], (2, 5, 5, 4), -1),
        ([nn.Conv2d(4, 6, 1), nn.Flatten(2), nn.GELU()], (2, 4, 3, 3), 1),
        ([nn.Linear(4, 6), nn.Unflatten(1, (3, 2)), nn.GELU()], (2, 6, 4), -1),
        ([nn.Conv3d(4, 6, 1), nn.BatchNorm3d(6), nn.GELU()], (2, 4, 2, 2, 2), 1),
    ],
)
def test_channels_are_where_the_last_layer_wrote_them(layers, shape, dim):
    new = qact.convert(nn.Sequential(*layers), example_inputs=torch.randn(shape))
    assert (new[-1].dim, new[-1].num_features) == (dim, 6)


def test_channels_are_followed_through_permutations():
    class Turn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 6, 1), nn.Linear(6, 8)
            self.norm = nn.LayerNorm(6)
            self.a, self.b, self.c = nn.GELU(), nn.GELU(), nn.GELU()

        def forward(self, x):
            x = self.a(self.conv(x).permute(0, 2, 3, 1))
            x = self.b(self.norm(x).permute(0, 3, 1, 2) * 2)
            x = self.linear(x.flatten(2).transpose(1, 2))
            return self.c(x.transpose(1, 2))

    new = qact.convert(Turn(), example_inputs=torch.randn(2, 3, 5, 5))
    found = [(act.dim, act.num_features) for act in (new.a, new.b, new.c)]
    assert found == [(-1, 6), (1, 6), (1, 8)]


def test_parametrised_models_keep_their_parametrisation():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    torch.nn.utils.parametrizations.weight_norm(model[0])
    torch.nn.utils.parametrize.register_parametrization(model[2], "weight", nn.Softplus())
    new = qact.convert(model, example_inputs=torch.randn(3, 4), where=(nn.ReLU, nn.Softplus))
    assert names(new) == ["1"]
    assert "computes a parameter" in str(qact.summary(new))
    assert (new[2].weight > 0).all()
    new(torch.randn(3, 4)).sum().backward()
    assert new[0].parametrizations.weight.original0.grad is not None


def test_a_parameter_that_is_computed_stays_so_in_a_rewritten_forward():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))

        def forward(self, x):
            return F.relu(F.linear(x, self.weight))

    model = Own()
    torch.nn.utils.parametrize.register_parametrization(model, "weight", nn.Tanh())
    new, x = qact.convert(model, example_inputs=torch.randn(3, 4)), torch.randn(3, 4)
    before = new(x)
    before.sum().backward()
    assert new.parametrizations.weight.original.grad is not None
    with torch.no_grad():
        new.parametrizations.weight.original.add_(1.0)
    assert not torch.equal(new(x), before)
    plain = qact.convert(Own(), example_inputs=x)
    plain(x).sum().backward()
    assert plain.weight.grad is not None


def test_dtype_device_mode_and_hooks_are_kept():
    model = net().double()
    model[0].eval()
    called = []
    handle = model[0].relu.register_forward_hook(lambda *a: called.append("relu"))
    model[3].register_forward_pre_hook(lambda *a: called.append("linear"))
    new = qact.convert(model, example_inputs=images().double())
    assert new[0].relu.weight.dtype == torch.float64
    assert not new[0].relu_1.training
    assert new[3].training
    called.clear()
    new[0].train()
    new(images().double())
    assert called == ["relu", "relu", "linear"]
    # In place, the handle that was given out still removes the hook.
    qact.convert_(model, example_inputs=images().double())
    handle.remove()
    called.clear()
    model.train()(images().double())
    assert called == ["linear"]


def test_compiled_models():
    x = images()
    model = net().eval()
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    new = qact.convert(compiled, example_inputs=x)
    assert type(new) is type(compiled)
    assert len(names(new)) == 6
    new.train()(x)
    torch.testing.assert_close(new.eval()(x), new._orig_mod(x))
    assert qact.convert_(compiled, "golu", example_inputs=x) is compiled
    torch.testing.assert_close(compiled(x), compiled._orig_mod(x))
    assert type(model[0].relu).__name__ == "GoLU"


def test_models_wrapped_in_ddp(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    try:
        model = nn.parallel.DistributedDataParallel(net(), find_unused_parameters=True)
        with pytest.raises(TypeError, match="gradient buckets"):
            qact.convert_(model, example_inputs=images())
        new = qact.convert(model, example_inputs=images())
        assert isinstance(new, nn.parallel.DistributedDataParallel)
        assert new.find_unused_parameters
        new(images()).sum().backward()
        assert new.module[0].relu_2.weight.grad is not None
        assert model.module[0].conv.weight.grad is None
    finally:
        torch.distributed.destroy_process_group()


def test_twice():
    x = images()
    once = qact.convert(net(), example_inputs=x, where="*.relu")
    assert names(once) == ["0.relu", "0.relu_1"]
    twice = qact.convert(once, "golu", example_inputs=x)
    assert len(names(twice)) == 6
    assert type(twice[0].relu).__name__ == "QAct"
    assert type(twice[0].gelu).__name__ == "GoLU"
    pickle.loads(pickle.dumps(twice)).train()(x)
    other = qact.convert(twice, "relu", where=qact.QAct, example_inputs=x)
    assert type(other[0].relu_1) is nn.ReLU


def test_what_runs_in_training_alone():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.aux = nn.Linear(4, 6), nn.ReLU(), nn.Sequential(nn.ELU())

        def forward(self, x):
            x = self.head(self.body(x))
            return (x, self.aux(x)) if self.training else x

    model = Two()
    new = qact.convert(model, example_inputs=torch.randn(3, 4))
    assert names(new) == ["head", "aux.0"]
    assert new.aux[0].num_features == 6


def test_nothing_but_the_activations_changes_the_random_state_or_the_buffers():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5))
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    new = qact.convert(model, "golu", example_inputs=torch.randn(3, 4, generator=torch.Generator()))
    assert same_state(model, state)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(new.state_dict()[k], state[k]) for k in state)


class HandsOn(qact.QAct):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)


class HandsOnNormed(qact.NormedQAct):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)


class Fixed(nn.Threshold):
    """It gives what its base needs by itself."""

    def __init__(self, **options):
        super().__init__(0.5, 0.0, **options)


@pytest.mark.parametrize("to", [HandsOn, HandsOnNormed, Fixed])
def test_a_class_that_hands_its_options_on_is_asked_for_those_of_its_base(to):
    net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    x = torch.randn(16, 4)
    new = qact.convert(net, to=to, example_inputs=x)
    assert type(new[1]) is to
    assert new(x).shape == (16, 2)
    if to is not Fixed:
        assert getattr(new[1], "quantile", new[1])._level.name == "gelu"
