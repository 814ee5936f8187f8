"""Detectors: run lengths against simulation, by a peer's formulas, and what e-values promise."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, stats

from qact.monitor import create, names
from qact.monitor.detectors import Cusum, bet, run_length


def length(detector, draws: torch.Generator, limit: int) -> int:
    detector.reset()
    for step in range(1, limit + 1):
        if detector.update(float(torch.rand((), generator=draws).clamp_min(1e-9))):
            return step
    return limit


def test_the_run_length_of_a_cusum_is_simulated_and_known():
    # Siegmund's approximation for k = 1/2, h = 5 gives 938 (Montgomery, table 9.3: 465 two-sided).
    # To a digit more, 930.9 and 335.4 (Siegmund 1985; Lucas and Crosier 1982).
    assert run_length(5.0, 1.0) == pytest.approx(930.9, rel=1e-4)
    assert run_length(4.0, 1.0) == pytest.approx(335.4, rel=1e-4)
    detector, draws = Cusum(0.05), torch.Generator().manual_seed(0)
    runs = [length(detector, draws, 400) for _ in range(200)]
    assert sum(runs) / 200 == pytest.approx(20, rel=0.2)


@pytest.mark.parametrize(("rate", "shift"), [(1e-6, 0.1), (1e-3, 0.001), (1e-6, 0.05)])
def test_small_shifts_run_as_long_as_they_say(rate, shift):
    """By Siegmund's approximation, which is good where a step is small beside the threshold."""
    h = 2 * (Cusum(rate, shift).threshold + 1.166) * shift / 2
    assert (math.exp(h) - h - 1) / (2 * (shift / 2) ** 2) == pytest.approx(1 / rate, rel=1e-3)


def test_a_cusum_that_could_never_fire_is_refused():
    with pytest.raises(ValueError, match=r"shift=20.* must be a number of deviations in \(0, 14\]"):
        Cusum(0.01, 20)
    with pytest.raises(ValueError, match=r"rate=1e-13 must be a share in"):
        Cusum(1e-13)


def test_the_bet_is_the_mixture_and_has_mean_one():
    for p in (1e-6, 0.01, 0.3, 0.9, 0.99999):
        assert bet(p) == pytest.approx(
            integrate.quad(lambda k, p=p: k * p ** (k - 1), 0, 1)[0], rel=1e-6
        )
    # int_0^1 over k of int p^k' dp: 1 in the limit; the mass below 1e-9 is 1 / ln(1e9).
    mean = integrate.quad(bet, 1e-9, 1, limit=500, points=[1e-8, 1e-6, 1e-4, 1e-2])[0]
    assert mean == pytest.approx(1 - 1 / -torch.log(torch.tensor(1e-9)).item(), abs=2e-3)


def test_a_martingale_runs_at_least_as_long_as_it_says():
    draws = torch.Generator().manual_seed(1)
    detector = create("martingale", 0.05)
    runs = [length(detector, draws, 400) for _ in range(100)]
    assert sum(runs) / 100 >= 20


def test_evidence_gathers_and_an_alarm_ends():
    weak = stats.norm.sf(1.2)  # no single window of this kind fires at 0.01
    each, cusum, martingale = (create(name, 0.01) for name in ("window", "cusum", "martingale"))
    found = [(each.update(weak), cusum.update(weak), martingale.update(weak)) for _ in range(30)]
    assert not any(one for one, _, _ in found)
    assert found[-1][1:] == (True, True)
    for detector in (cusum, martingale):
        for _ in range(80):
            detector.update(0.6)
        assert not detector.standing
        detector.reset()
        assert detector.statistic == 0


def test_adwin_is_the_peers():
    pytest.importorskip("river")
    draws = torch.Generator().manual_seed(2)
    detector = create("adwin", 0.002)
    quiet = [detector.update(float(torch.rand((), generator=draws))) for _ in range(200)]
    loud = [detector.update(0.001) for _ in range(60)]
    assert sum(quiet) <= 2
    assert any(loud)


def test_names_and_refusals():
    assert names() == ["adwin", "cusum", "martingale", "window"]
    with pytest.raises(ValueError, match=r"rate=0 must be a share in \(0, 0.5\]"):
        create("window", 0)
    with pytest.raises(ValueError, match=r"p=0.0 must lie in \(0, 1\]"):
        create("window").update(0.0)
