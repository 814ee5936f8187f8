"""Clusters of classes whose nonconformity scores are distributed alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def clustered(
    scores: Tensor, labels: Tensor, classes: int, alpha: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return the cluster of each class (C,), -1 for rare ones, and which samples were not used.

    Ding et al. 2023, sec. 2.2 and app. C: k-means of the quantiles of each class's scores, weighted
    by the root of their number, on a share of the samples; share and number of clusters by the
    authors' rule. Where that leaves no two clusters, all classes are one.
    """
    counts = torch.bincount(labels, minlength=classes)
    least = max(int(counts.min()), math.ceil(1 / alpha - 1e-9) - 1)
    many = int((counts >= least).sum())
    taken = least * many // (75 + many)
    number = taken // 2
    device = scores.device
    used = torch.rand(len(labels), generator=generator, dtype=torch.float32).to(
        device
    ) < taken / max(least, 1)
    levels = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, 1 - alpha], dtype=torch.float64, device=device)
    here = torch.bincount(labels[used], minlength=classes)
    known = torch.nonzero(here >= math.ceil(1 / alpha - 1e-9) - 1)[:, 0]
    found = torch.full((classes,), -1, device=device)
    if not 1 < number < len(known):
        return found, torch.ones_like(used)
    rows = [torch.quantile(scores[used & (labels == k)].double(), levels) for k in known.tolist()]
    found[known] = k_means(torch.stack(rows), here[known].double().sqrt(), number, generator)
    return found, ~used


def k_means(
    points: Tensor,
    weights: Tensor,
    number: int,
    generator: torch.Generator | None,
    starts: int = 10,
) -> Tensor:
    """Return the cluster (N,) of points (N, D): Lloyd's algorithm, the best of some starts."""
    best, least = torch.zeros(len(points), dtype=torch.long, device=points.device), math.inf
    for _ in range(starts):
        first = torch.multinomial(weights.cpu(), number, generator=generator)
        centres = points[first.to(points.device)]
        for _ in range(50):
            which = torch.cdist(points, centres).argmin(1)
            mass = torch.zeros(number, dtype=points.dtype, device=points.device)
            mass = mass.index_add(0, which, weights)
            sums = torch.zeros_like(centres).index_add(0, which, points * weights[:, None])
            moved = torch.where(mass[:, None] > 0, sums / mass[:, None].clamp(min=1e-300), centres)
            if torch.equal(moved, centres):
                break
            centres = moved
        cost = float((weights * torch.cdist(points, centres).amin(1).square()).sum())
        if cost < least:
            best, least = which, cost
    return best.unique(return_inverse=True)[1]  # some may have stayed empty
