import pytest
import torch
from torch import nn

from qact import QAct
from qact.models import Placement, build, paper, positions, resnet18, resnet_small
from qact.nn.normed import PaperQAct


def kinds(network):
    return {
        n: type(m).__name__ for n, m in network.named_modules() if n in positions("resnet_small")
    }


def test_a_name_a_class_and_a_factory():
    for act in ("softsign", nn.Softsign, lambda channels: nn.Softsign()):
        found = kinds(resnet_small(act=act))
        assert found.pop("features") == "Identity"
        assert set(found.values()) == {"Softsign"}


def test_a_mapping_lets_the_position_itself_win_then_the_first_match():
    act = {"*.act?": "tanh", "stages.1.0.act2": "qact", "*": "relu"}
    found = kinds(resnet_small(act=act))
    assert found["stem.2"] == "ReLU"
    assert found["stages.0.0.act1"] == "Tanh"
    assert found["stages.1.0.act2"] == "QAct"
    assert found["features"] == "Identity"  # "*" does not name it


def test_the_features_get_an_activation_when_named():
    network = resnet_small(act={"*": "relu", "features": "qact"})
    assert isinstance(network.features, QAct)
    assert network(torch.randn(4, 1, 8, 8)).shape == (4, 10)


def test_none_is_no_activation():
    found = kinds(resnet_small(act={"*.act1": None, "*": "relu"}))
    assert found["stages.0.0.act1"] == "Identity"


def test_a_placement_is_asked_for_every_position():
    asked = []

    def choose(position):
        asked.append(position)
        return "relu"

    resnet_small(act=Placement(choose))
    assert asked == positions("resnet_small")


def test_the_placement_of_the_paper():
    network = resnet18(act=paper(), width_multiplier=0.125)
    found = {n for n, m in network.named_modules() if isinstance(m, PaperQAct)}
    blocks = {f"stages.{i}.{j}.act2" for i in range(4) for j in range(2)}
    assert found == {"stem.2", "features"} | blocks
    assert sum(isinstance(m, nn.ReLU) for m in network.modules()) == 8
    everywhere = build("resnet50", act="qact.paper", placement="paper", width_multiplier=0.125)
    assert sum(isinstance(m, PaperQAct) for m in everywhere.modules()) == 50
    assert not any(isinstance(m, nn.ReLU) for m in everywhere.modules())


def test_mistakes_are_named():
    with pytest.raises(
        ValueError, match=r"'stages\.9\.\*'.*positions: stem\.2, stages\.0\.0\.act1"
    ):
        resnet_small(act={"stages.9.*": "qact", "*": "relu"})
    with pytest.raises(ValueError, match=r"no pattern matches the position 'stem\.2'.*'\*\.act1'"):
        resnet_small(act={"*.act1": "qact"})
    with pytest.raises(ValueError, match="unknown activation 'rellu'"):
        resnet_small(act="rellu")
    with pytest.raises(TypeError, match="act=3 must be a name"):
        resnet_small(act=3)


def test_the_name_of_a_part_means_all_that_is_in_it():
    by_name = resnet_small(act={"stages.0": "golu", "*": "relu"})
    by_pattern = resnet_small(act={"stages.0.*": "golu", "*": "relu"})
    kinds = [[type(m).__name__ for m in net.modules()] for net in (by_name, by_pattern)]
    assert kinds[0] == kinds[1]
    assert "GoLU" in kinds[0]
