"""A mean over seeds, its spread and its interval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev


@dataclass(frozen=True)
class Stat:
    """Mean and standard deviation over seeds; the deviation is None for a single seed."""

    mean: float
    sd: float | None
    seeds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Stat | None:
        """Summarise one value per seed; None if there is none.

        Example:
            >>> Stat.of([1.0, 3.0])
            Stat(mean=2.0, sd=1.4142135623730951, seeds=2)
        """
        listed = list(values)
        if not listed:
            return None
        return cls(fmean(listed), stdev(listed) if len(listed) > 1 else None, len(listed))

    def half(self) -> float | None:
        """Return half of the 95% confidence interval of the mean, Student's t over seeds."""
        if self.sd is None:
            return None
        from scipy.stats import t

        return float(t.ppf(0.975, self.seeds - 1)) * self.sd / sqrt(self.seeds)

    def interval(self) -> tuple[float, float] | None:
        """Return the 95% confidence interval of the mean."""
        half = self.half()
        return None if half is None else (self.mean - half, self.mean + half)
