"""The registry: what it accepts, refuses and knows."""

from __future__ import annotations

import pytest
from torch import nn

import qact
from qact.activations import Entry, entry, register, registry


@pytest.fixture
def own(monkeypatch):
    """Register for one test only."""
    qact.list_activations()
    monkeypatch.setattr(registry.ACTIVATIONS, "_entries", dict(registry.ACTIVATIONS._entries))


def test_by_name_class_or_none():
    assert isinstance(qact.activation("relu"), nn.ReLU)
    assert isinstance(qact.activation(nn.GELU), nn.GELU)
    assert isinstance(qact.activation(None), nn.Identity)
    assert isinstance(qact.activation("qact", 8), qact.QAct)
    assert qact.activation(qact.QAct, 8, levels="gelu").num_features == 8


@pytest.mark.parametrize("bad", [3, ["relu"], nn.ReLU(), object])
def test_what_is_no_activation(bad):
    with pytest.raises(TypeError, match="must be a string, a module class or None"):
        qact.activation(bad)


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match=r"'swosh'; did you mean 'swish' or .*known: aglu, "):
        qact.activation("swosh")


def test_num_features_is_asked_for_or_ignored():
    assert qact.activation("relu", 7).inplace is False
    for name in ("qact", "dice", "smartmixed"):
        assert entry(name).needs_features
        with pytest.raises(ValueError, match=f"'{name}' needs num_features"):
            qact.activation(name)
    with pytest.raises(ValueError, match="num_features=0"):
        qact.activation("prelu", 0)


def test_options_reach_the_module_and_unknown_ones_are_refused():
    assert qact.activation("aptx", alpha=2.0).alpha == 2.0
    assert qact.activation("leaky_relu", negative_slope=0.3).negative_slope == 0.3
    with pytest.raises(TypeError, match="speed"):
        qact.activation("golu", speed=3)


def test_inplace_is_obeyed_where_torch_can():
    assert qact.activation("relu", inplace=True).inplace
    assert qact.activation("gelu", inplace=True)  # torch's GELU has no such option
    with pytest.raises(TypeError, match="inplace=1"):
        qact.activation("golu", inplace=1)


def test_patterns_and_facts():
    names = qact.list_activations("*elu")
    assert {"relu", "elu", "selu", "gelu", "prelu", "helu"} <= set(names)
    assert names == sorted(names)
    assert all(entry(n).halves for n in qact.list_activations(halves=True))
    assert set(qact.list_activations(pointwise=True)) < set(qact.list_activations())
    assert qact.list_activations("nothing*") == []
    with pytest.raises(ValueError, match="no field 'colour'"):
        qact.list_activations(colour="red")


def test_a_taken_name_is_refused(own):
    with pytest.raises(ValueError, match="'relu' is registered already"):
        register("relu", paper="p", formula="f")
    with pytest.raises(ValueError, match="must name its paper"):
        register("mine", paper="", formula="f")
    with pytest.raises(ValueError, match="must name its formula"):
        register("mine", paper="p", formula="")


def test_a_registered_class_is_found(own):
    @register("mine", paper="none", formula="x")
    class Mine(nn.Identity):
        def __init__(self, num_features: int) -> None:
            super().__init__()
            self.num_features = num_features

    assert isinstance(entry("mine"), Entry)
    assert qact.activation("mine", 5).num_features == 5
    assert "mine" in qact.list_activations("m*")
