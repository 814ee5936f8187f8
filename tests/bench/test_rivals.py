import pytest
from torch import nn

from qact.bench import Rival, list_rivals, rival
from qact.bench.data import load_inputs
from qact.bench.errors import RecipeError
from qact.bench.train.network import build


def test_the_three_of_the_first_bench_are_there():
    control = {entry.name: entry.control for entry in list_rivals()}
    assert control["relu"]
    assert not control["qact"]
    assert not control["qact.paper"]
    assert all(entry.paper for entry in list_rivals())


def test_every_factory_gives_fresh_modules():
    for entry in list_rivals():
        one, two = entry.factory(8), entry.factory(8)
        assert isinstance(one, nn.Module)
        assert one is not two


def test_a_taken_name_is_refused(register):
    with pytest.raises(RecipeError, match="'relu' is registered already"):
        register(Rival("relu", lambda channels: nn.ReLU(), "none"))


def test_unknown_names_list_the_known(register):
    register(Rival("mine", lambda channels: nn.Identity(), "none"))
    assert rival("mine").describe() == "mine: Identity()"
    with pytest.raises(RecipeError, match=r"unknown activation 'yours'; .*known: aglu, "):
        rival("yours")


def test_a_class_is_a_factory(tiny):
    class Mine(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.channels = channels

    model = build(tiny, Rival("mine", Mine, "none"), 0, load_inputs(tiny.data))
    assert {m.channels for m in model.modules() if isinstance(m, Mine)} == {4, 8, 16}
