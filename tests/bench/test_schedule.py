from dataclasses import replace

import pytest
import torch
from torch import nn

from qact.bench import Training
from qact.bench.recipe.presets import preset
from qact.bench.train.schedules import one_cycle, plateau, rate, stalled


def optimizer(lr):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize("steps", [10, 57, 300])
def test_one_cycle_equals_torch(steps):
    theirs = optimizer(1.0)
    oracle = torch.optim.lr_scheduler.OneCycleLR(
        theirs, 0.3, total_steps=steps, cycle_momentum=False
    )
    for step in range(steps):
        assert one_cycle(step, steps, 0.3) == pytest.approx(oracle.get_last_lr()[0], rel=1e-9)
        theirs.step()
        oracle.step()


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_very_short_schedules_are_defined(steps):
    assert all(0 < one_cycle(step, steps, 0.1) <= 0.1 for step in range(steps))


def test_cosine_equals_torch():
    theirs, training = optimizer(0.3), Training(epochs=4, lr=0.3, schedule="cosine")
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 40)
    for step in range(40):
        assert rate(training, step, 10, []) == pytest.approx(oracle.get_last_lr()[0], abs=1e-9)
        theirs.step()
        oracle.step()


def test_warm_up_rises_to_the_peak_and_joins_the_schedule():
    training = Training(epochs=5, lr=1.0, schedule="constant", warmup=2)
    rates = [rate(training, step, 2, []) for step in range(10)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8] + [1.0] * 6)


def test_fast_rises_for_a_fifth_and_falls_in_a_straight_line():
    training, steps = replace(preset("fast"), epochs=10, warmup=2.0, lr=1.0), 5
    rates = [rate(training, step, steps, []) for step in range(50)]
    assert rates[:10] == pytest.approx([(k + 1) / 11 for k in range(10)])
    assert rates[10:] == pytest.approx([k / 40 for k in range(40, 0, -1)])
    assert preset("fast").warmup == pytest.approx(preset("fast").epochs / 5)


def test_multistep_is_the_authors_400_epochs():
    training = Training(epochs=400, lr=1.0, schedule="multistep")
    rates = {epoch: rate(training, epoch, 1, []) for epoch in (199, 200, 299, 300, 349, 350)}
    assert list(rates.values()) == pytest.approx([1, 0.1, 0.1, 0.01, 0.01, 0.001])


def test_plateau_equals_torch_epoch_by_epoch():
    theirs = optimizer(1e-3)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs, "max", 0.1, 50, threshold=0.01, threshold_mode="abs", cooldown=10, min_lr=1e-6
    )
    scores = [0.4 + 0.3 * (1 - 0.9**epoch) for epoch in range(150)]
    for epoch, score in enumerate(scores):
        assert plateau(scores[:epoch], 1e-3) == theirs.param_groups[0]["lr"]
        oracle.step(score)
    assert theirs.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_early_stopping_counts_gains_of_a_thousandth():
    assert not stalled([0.5] * 100, 0)
    assert stalled([0.5, 0.5005, 0.5009], 2)
    assert not stalled([0.5, 0.5, 0.501], 2)
    assert not stalled([0.5, 0.5], 2)
