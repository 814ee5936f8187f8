"""When a row of p-values is an alarm: window by window, or gathered over time.

Every detector is told one p-value per window, uniform or larger as long as all is well, and is
either standing or not. ``rate`` is the share of sound windows at which the plain one fires; for
those that gather evidence it is one over the average run length to a false alarm (ARL).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

from qact import checks, extras
from qact import registry as _registry

_NORMAL = NormalDist()
_LONGEST = 1e16  # run length, in windows
_CAP = 4.0  # how far above its threshold evidence goes, in thresholds: so that an alarm can end


@dataclass(frozen=True)
class Entry(_registry.Entry):
    """What the registry knows of a detector; ``run`` says what ``rate`` promises."""

    run: str


DETECTORS = _registry.Registry("detector", Entry)
register = DETECTORS.register
names = DETECTORS.names
create = DETECTORS.create


class Detector:
    """Base: ``update`` with the p-value of each window, then ask ``standing``.

    Args:
        rate: false alarms per window, in (0, 0.5].
    """

    def __init__(self, rate: float = 0.01) -> None:
        self.rate = checks.number("rate", rate, "a share in (0, 0.5]", 0, 0.5)
        self.statistic = 0.0
        self.standing = False

    def update(self, p: float) -> bool:
        """Take in a window's p-value; whether an alarm stands now."""
        if not 0 < p <= 1:
            raise ValueError(f"p={p!r} must lie in (0, 1]")
        self.standing = self.step(p)
        return self.standing

    def step(self, p: float) -> bool:
        """What the detector does with it."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget all windows."""
        self.statistic, self.standing = 0.0, False


@register("window", paper="Fisher 1925; a Shewhart chart of p-values", run="exact")
class EachWindow(Detector):
    """Fires at a window whose p-value is at most ``rate``.

    Example:
        >>> detector = create("window", 0.05)
        >>> [detector.update(p) for p in (0.5, 0.01, 0.2)]
        [False, True, False]
    """

    def step(self, p: float) -> bool:
        """Compare."""
        self.statistic = 1 - p
        return p <= self.rate


@register("cusum", paper="Page 1954; run length by Goel and Wu 1971", run="exact")
class Cusum(Detector):
    """``S <- max(0, S + z - shift / 2)`` with the normal score ``z`` of ``1 - p``; fires at ``h``.

    Optimal for a lasting rise of ``z`` by ``shift`` (Moustakides 1986). ``h`` gives the average run
    length ``1 / rate`` for normal ``z``, by the integral equation of Goel and Wu; where a single
    score above ``shift / 2`` is rarer than ``rate``, it fires at each.

    Raises:
        ValueError: ``rate`` is below 1e-12, which float64 cannot resolve, or ``shift`` above 14:
            scores end at 7, and it would never fire.

    Example:
        >>> detector = create("cusum", 0.001)
        >>> round(run_length(detector.threshold, detector.shift))
        1000
    """

    def __init__(self, rate: float = 0.01, shift: float = 1.0) -> None:
        super().__init__(rate)
        checks.number("rate", rate, "a share in [1e-12, 0.5]", 0.99e-12, 0.5)
        self.shift = checks.number("shift", shift, "a number of deviations in (0, 14]", 0, 14)
        self.threshold = _threshold(1 / self.rate, self.shift)

    def step(self, p: float) -> bool:
        """Add up."""
        score = -_NORMAL.inv_cdf(min(max(p, 1e-12), 1 - 1e-12))
        risen = max(0.0, self.statistic + score - self.shift / 2)
        self.statistic = min(risen, _CAP * self.threshold)
        return self.statistic >= self.threshold


def run_length(threshold: float, shift: float) -> float:
    """Windows to a false alarm of :class:`Cusum` on average (Goel and Wu 1971).

    From a statistic ``u``, with ``k = shift / 2``, ``L(u) = 1 + Phi(k - u) L(0) + int_0^h phi(y - u
    + k) L(y) dy``: solved at the nodes of Gauss and Legendre, ten in each piece of four deviations.
    """
    pieces, k = max(1, math.ceil(threshold / 4)), shift / 2
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(10))
    half = threshold / (2 * pieces)
    y = (half * (2 * torch.arange(pieces, device="cpu")[:, None] + 1 + nodes)).flatten()
    u = torch.cat([y.new_zeros(1), y])
    density = torch.exp(-((y - u[:, None] + k) ** 2) / 2) * half * weights.repeat(pieces)
    stay = torch.cat([torch.special.ndtr(k - u)[:, None], density / (2 * torch.pi) ** 0.5], 1)
    return float(torch.linalg.solve(torch.eye(len(u), dtype=u.dtype) - stay, torch.ones_like(u))[0])


def _threshold(length: float, shift: float) -> float:
    """Where the run length is ``length``, by false position: its logarithm is nearly a line."""

    def gap(h: float) -> float:
        found = run_length(h, shift)
        # Where hardly any score reaches h, the equation is singular but for rounding.
        return math.log((found if 0 < found < _LONGEST else _LONGEST) / length)

    low, high = 1e-12, 1.0
    below, above = gap(low), gap(high)
    if below >= 0:
        return low
    while above < 0:
        low, high, below = high, 2 * high, above
        above = gap(high)
    for _ in range(60):
        middle = high - above * (high - low) / (above - below)
        found = gap(middle)
        if abs(found) < 1e-9 or not low < middle < high:
            return middle
        # An end that stays is weighed by half (Illinois), so that both ends come near.
        if found < 0:
            low, below, above = middle, found, above / 2
        else:
            high, above, below = middle, found, below / 2
    return high


@register("martingale", paper="Shin, Ramdas and Rinaldo 2022, arXiv 2203.03532", run="at least")
class Martingale(Detector):
    """A Shiryaev-Roberts e-detector: ``M <- (M + 1) e``, fires at ``1 / rate``.

    ``e = int_0^1 k p^(k-1) dk = (1 - p + p ln p) / (p ln^2 p)`` bets against uniform p-values
    (Vovk 2003); it has mean 1 whatever the distribution of the data, so the average run length is
    at least ``1 / rate``.

    Example:
        >>> round(bet(0.01), 2), round(bet(0.5), 2), round(bet(1.0), 2)
        (4.45, 0.64, 0.5)
    """

    def step(self, p: float) -> bool:
        """Bet on."""
        self.statistic = min((self.statistic + 1) * bet(p), _CAP / self.rate)
        return self.statistic >= 1 / self.rate


def bet(p: float) -> float:
    """``int_0^1 k p^(k-1) dk``, which is large for small p-values and 1 on average."""
    log = math.log(p)
    if log > -1e-4:
        return 0.5 - log / 6  # its series at 1
    return (1 - p + p * log) / (p * log * log)


@register("adwin", paper="Bifet and Gavalda 2007", run="none: its delta bounds single comparisons")
class Adwin(Detector):
    """ADWIN of the package ``river`` on the p-values, with ``delta = rate``; stands one window."""

    def __init__(self, rate: float = 0.01) -> None:
        super().__init__(rate)
        self.reset()

    def step(self, p: float) -> bool:
        """Hand it on."""
        before = self._adwin.estimation
        self._adwin.update(p)
        self.statistic = 1 - self._adwin.estimation
        return bool(self._adwin.drift_detected and self._adwin.estimation < before)

    def reset(self) -> None:
        """Begin anew."""
        super().reset()
        with extras.needed("the detector 'adwin'", "monitor"):
            from river.drift import ADWIN
        self._adwin: Any = ADWIN(delta=self.rate, clock=1, min_window_length=2)
