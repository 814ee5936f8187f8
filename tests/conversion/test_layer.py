"""`qact.layer`: a class in all but name, beside a module of the same name."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import qact
from qact import QAct


def test_it_is_called_as_a_class_is():
    act_layer = qact.layer("qact", levels="gelu")
    one, two = act_layer(inplace=True), act_layer()
    assert one is not two
    one(torch.randn(4, 3, 5, 5))
    assert (type(one), one.dim, one.num_features, one.levels) == (QAct, 1, 3, "gelu")
    assert type(qact.layer("golu")(inplace=True)).__name__ == "GoLU"
    assert type(qact.layer(nn.LeakyReLU, negative_slope=0.2)(inplace=True)) is nn.LeakyReLU
    assert qact.layer("qact")(8).num_features == 8
    assert act_layer == pickle.loads(pickle.dumps(act_layer))
    assert qact.layer("qact").__name__ == "qact"


@pytest.mark.parametrize(
    ("before", "shape", "dim"),
    [
        (nn.Linear(4, 6), (2, 4), 1),
        (nn.Linear(4, 6), (2, 5, 4), -1),
        (nn.Linear(4, 6), (2, 5, 5, 4), -1),
        (nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)), (2, 5, 5, 4), -1),
        (nn.Conv1d(4, 6, 1), (2, 4, 5), 1),
        (nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)), (2, 4, 5, 5), 1),
    ],
)
def test_the_dimension_is_that_of_the_layer_before(before, shape, dim):
    model = nn.Sequential(before, qact.layer("qact")())
    model(torch.randn(shape))
    act = model[1]
    assert act.num_features == 6
    assert act.dim % len(shape) == dim % len(shape)


def test_the_dimension_can_be_given():
    act = qact.layer("qact", dim=-1)()
    with torch.no_grad():
        act(torch.randn(2, 5, 5, 7))
    assert (act.dim, act.num_features) == (-1, 7)


def test_a_state_that_is_loaded_first_tells_the_dimension():
    source = nn.Sequential(nn.Linear(4, 6), qact.layer("qact")())
    source(torch.randn(2, 5, 5, 4))
    target = nn.Sequential(nn.Linear(4, 6), qact.layer("qact")())
    target.load_state_dict(copy.deepcopy(source.state_dict()))
    x = torch.randn(2, 5, 5, 4)
    with torch.no_grad():
        torch.testing.assert_close(target.eval()(x), source.eval()(x))
    assert target[1].dim == -1


def test_an_optimiser_made_before_the_first_batch_trains_it():
    model = nn.Sequential(nn.Linear(4, 6), qact.layer("qact")(), nn.Linear(6, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(8, 4)).square().mean().backward()
    before = model[1].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model[1].weight, before)


def test_bad_names():
    with pytest.raises(ValueError, match="unknown activation 'quact'"):
        qact.layer("quact")
    with pytest.raises(TypeError, match="to=3"):
        qact.layer(3)
    with pytest.raises(ValueError, match="needs num_features"):
        qact.layer("dice")()


@pytest.mark.parametrize(
    "code",
    [
        "from qact.layer import QAct; import qact; qact.layer('qact')",
        "from qact.lazy import LazyQAct; import qact; assert LazyQAct is qact.LazyQAct",
        "import qact.layer; qact.layer('qact'); from qact.layer import QAct",
        "import qact; from qact.layer import QAct; assert QAct is qact.QAct; qact.layer('relu')",
        "from qact import layer; layer('qact'); import qact.layer; assert qact.layer is layer",
        "import importlib; assert importlib.import_module('qact.layer').QAct",
        "import pickle, qact; pickle.loads(pickle.dumps(qact.QAct(3)))",
        "from qact.convert import convert; import qact.convert; qact.convert is convert",
    ],
)
def test_the_module_and_the_function_of_one_name(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
