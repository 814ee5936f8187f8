"""Confidence intervals by resampling the samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qact import checks


@dataclass(frozen=True)
class Interval:
    """A metric, and the bounds between which it lies with the stated confidence."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    metric: Callable[..., float],
    *data: Tensor,
    level: float = 0.95,
    resamples: int = 1000,
    generator: torch.Generator | None = None,
) -> Interval:
    """Return ``metric(*data)`` with its percentile bootstrap interval (Efron 1979).

    Rows are drawn with replacement, the same ones from each tensor of ``data``. The interval is
    between the quantiles ``(1 -+ level)/2`` of the resampled metric. A resample has duplicates, so
    plain calibration errors come out biased upwards even more in it; take the debiased one with
    ``root=False`` where an interval is to cover zero.

    Args:
        metric: called with as many tensors as ``data`` has.
        data: tensors that agree in their first dimension.
        level: of confidence, in (0, 1).
        resamples: how many, at least 2.
        generator: source of the draws; seed 0 if None, so that a table can be repeated.

    Raises:
        ValueError: lengths differ, or an option is out of range.

    Example:
        >>> probs, labels = torch.tensor([[0.9, 0.1]]).repeat(100, 1), torch.arange(100) % 10 // 9
        >>> from qact.calibration import accuracy
        >>> found = bootstrap_interval(accuracy, probs, labels)
        >>> found.value, found.low < 0.9 < found.high
        (0.9, True)
    """
    checks.integer("resamples", resamples, 2)
    if not 0 < level < 1:
        raise ValueError(f"level={level!r} must be in (0, 1)")
    sizes = {len(part) for part in data}
    if len(sizes) != 1 or not min(sizes):
        raise ValueError(f"data must be tensors of one length of at least 1, got {sorted(sizes)}")
    (n,) = sizes
    source = torch.Generator().manual_seed(0) if generator is None else generator
    values = []
    for _ in range(resamples):
        rows = torch.randint(n, (n,), generator=source, device=source.device)
        values.append(metric(*(part[rows.to(part.device)] for part in data)))
    share = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.tensor(values, dtype=torch.float64).quantile(share).tolist()
    return Interval(metric(*data), low, high)
