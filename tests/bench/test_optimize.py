import pytest
from torch import nn

from qact.bench import Training
from qact.bench.train.optimizer import optimizer_for


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_only_matrices_decay(name):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    groups = optimizer_for(model, Training(optimizer=name, weight_decay=0.5)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert [len(group["params"]) for group in groups] == [2, 4]


def test_momentum_is_the_recipes():
    training = Training(optimizer="sgd", momentum=0.5, nesterov=False)
    (group, _) = optimizer_for(nn.Linear(2, 2), training).param_groups
    assert (group["momentum"], group["nesterov"]) == (0.5, False)
