"""How many prediction sets hold the truth: of all, by class, by size, by group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Coverage:
    """How many sets hold the truth, how large they are on average, and over how many samples."""

    coverage: float
    size: float
    count: int


def coverage(sets: Tensor, labels: Tensor) -> Coverage:
    """Return the coverage of prediction sets (N, C) bool for labels (N,).

    Raises:
        ValueError: the sets are not (N, C) of bool, or the labels not (N,).

    Example:
        >>> coverage(torch.tensor([[True, True], [False, True]]), torch.tensor([0, 0]))
        Coverage(coverage=0.5, size=1.5, count=2)
    """
    if sets.dtype != torch.bool or sets.ndim != 2 or labels.shape != sets.shape[:1]:
        raise ValueError(
            f"sets must be (N, C) bool and labels (N,), got {tuple(sets.shape)} {sets.dtype} and "
            f"{tuple(labels.shape)}"
        )
    hit = sets.gather(1, labels.long()[:, None]).double()
    return Coverage(hit.mean().item(), sets.sum(1).double().mean().item(), len(labels))


def coverage_by(sets: Tensor, labels: Tensor, groups: Tensor) -> dict[int, Coverage]:
    """Return :func:`coverage` for each value of ``groups`` (N,), such as the severity.

    Example:
        >>> sets, labels = torch.ones(3, 2, dtype=torch.bool), torch.tensor([0, 1, 0])
        >>> coverage_by(sets, labels, torch.tensor([0, 5, 5]))[5]
        Coverage(coverage=1.0, size=2.0, count=2)
    """
    return {int(g): coverage(sets[groups == g], labels[groups == g]) for g in groups.unique()}


@dataclass(frozen=True)
class CoverageReport:
    """What prediction sets are worth, beyond the mean.

    Args:
        overall: of all samples.
        by_class: of each class that occurs.
        by_size: of each size of set that occurs.
        class_gap: mean over classes of ``|coverage - (1 - alpha)|`` (Ding et al. 2023, CovGap).
        size_violation: largest ``|coverage - (1 - alpha)|`` over the sizes (Angelopoulos et al.
            2021, SSCV).
        by_group: of each group, such as the severity of a shift.
    """

    overall: Coverage
    by_class: dict[int, Coverage]
    by_size: dict[int, Coverage]
    class_gap: float
    size_violation: float
    by_group: dict[int, Coverage]


def coverage_report(
    sets: Tensor, labels: Tensor, alpha: float, groups: Tensor | None = None
) -> CoverageReport:
    """Return coverage and size of sets (N, C) bool: of all, by class, by size, and by group.

    Example:
        >>> sets = torch.tensor([[True, False], [True, True], [True, False], [True, False]])
        >>> report = coverage_report(sets, torch.tensor([0, 1, 0, 1]), alpha=0.25)
        >>> report.overall.coverage, report.by_class[1].coverage, report.class_gap
        (0.75, 0.5, 0.25)
    """
    overall = coverage(sets, labels)
    by_class = coverage_by(sets, labels, labels)
    by_size = coverage_by(sets, labels, sets.sum(1))
    class_gaps, size_gaps = (
        [abs(one.coverage - (1 - alpha)) for one in found.values()] for found in (by_class, by_size)
    )
    by_group = {} if groups is None else coverage_by(sets, labels, groups)
    gap = sum(class_gaps) / len(class_gaps)
    return CoverageReport(overall, by_class, by_size, gap, max(size_gaps), by_group)
