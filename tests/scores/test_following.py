"""A threshold that follows: false alarms under drift, outliers in the mixture, states."""

from __future__ import annotations

import pytest
import torch

from qact.scores import Energy, Following


def stream(seed, shift=0.0, scale=1.0, outliers=0.05, count=400):
    """Scores of a batch whose background has moved, and which of them are true outliers."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.rand(count, generator=draw) < outliers
    scores = shift + scale * torch.randn(count, generator=draw)
    return torch.where(truth, scores + 8 * scale, scores), truth


@pytest.fixture
def score():
    return Energy().observe(stream(0, outliers=0, count=4000)[0])


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (4.0, 1.5), (-3.0, 0.5)])
def test_drift_of_the_background_is_no_alarm_and_outliers_are(score, shift, scale):
    follows = Following(score, 0.05, memory=1000, contamination=0.05)
    fixed = score.threshold(0.05)
    alarms, caught, fixed_alarms = [], [], []
    for seed in range(1, 31):
        values, truth = stream(seed, shift, scale)
        flags = follows.flag(values)
        if seed > 10:  # after the first thousands the context is of the stream
            alarms.append(flags[~truth].float().mean())
            caught.append(flags[truth].float().mean())
            fixed_alarms.append((values > fixed)[~truth].float().mean())
    assert torch.stack(alarms).mean() < 0.06
    assert torch.stack(caught).mean() > 0.99
    if shift > 0:
        assert torch.stack(fixed_alarms).mean() > 0.9  # what a fixed threshold would have said


@pytest.mark.parametrize("gap", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("allowed", [0.0, 0.05])
def test_outliers_that_are_missed_leave_their_room_to_false_alarms(score, gap, allowed):
    # All that is flagged is a share s = c + r (1 - c); what of it are not the outliers caught falls
    # on the rest: (s - c q) / (1 - c), whatever the score.
    share, rate, draw = 0.05, 0.05, torch.Generator().manual_seed(7)
    follows = Following(score, rate, memory=4000, contamination=allowed)
    truths, flags = [], []
    for _ in range(160):  # the share flagged is then 0.1 to within 0.001, one standard error
        truth = torch.rand(1000, generator=draw) < share
        flags.append(follows.flag(torch.randn(1000, generator=draw) + gap * truth))
        truths.append(truth)
    truth, flag = torch.cat(truths), torch.cat(flags)
    caught, alarms = (flag[of].double().mean().item() for of in (truth, ~truth))
    asked = allowed + rate * (1 - allowed)
    assert alarms == pytest.approx((asked - share * caught) / (1 - share), abs=0.004)
    assert alarms < (rate + 0.004 if gap == 8 or not allowed else rate + share / (1 - share))


def test_a_quantile_alone_has_the_rate_asked_for(score):
    follows = Following(score, 0.1, memory=2000)
    flags = [follows.flag(stream(seed, 3.0, outliers=0)[0]) for seed in range(40)]
    assert torch.cat(flags[15:]).float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_a_batch_meets_the_threshold_before_it_moves_it(score):
    follows = Following(score)
    assert follows.threshold() == pytest.approx(score.threshold(), abs=0.02)
    assert follows.flag(torch.full((5000,), 50.0)).all()
    assert follows.threshold() > 10
    assert follows.flag(torch.tensor([torch.inf, torch.nan, 0.0])).tolist() == [True, False, False]
    assert follows.flag(torch.empty(0)).shape == (0,)


def test_states_and_refusals(score):
    follows = Following(score)
    follows.flag(stream(3, 2.0)[0])
    other = Following(score)
    other.load_state_dict(follows.state_dict())
    assert other.threshold() == follows.threshold()
    with pytest.raises(RuntimeError, match="no in-distribution scores were seen"):
        Following(Energy())
    with pytest.raises(ValueError, match=r"too few for rate=0\.01; at least 99"):
        Following(Energy().observe(torch.randn(50)), 0.01)
    with pytest.raises(ValueError, match=r"contamination=1 must be a number in \[0, 1\)"):
        Following(score, contamination=1)
