import pytest
import torch
from torch import nn

from qact.bench import Training
from qact.bench.optimize import one_cycle, optimizer_for


@pytest.mark.parametrize("steps", [10, 57, 300])
def test_one_cycle_equals_torch(steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.3, total_steps=steps, cycle_momentum=False
    )
    for step in range(steps):
        assert one_cycle(step, steps, 0.3) == pytest.approx(oracle.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        oracle.step()


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_very_short_schedules_are_defined(steps):
    assert all(0 < one_cycle(step, steps, 0.1) <= 0.1 for step in range(steps))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_only_matrices_decay(name):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    groups = optimizer_for(model, Training(optimizer=name, weight_decay=0.5)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert [len(group["params"]) for group in groups] == [2, 4]
