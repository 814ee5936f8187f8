"""Accuracy without labels: three estimates that read the confidence of a window alone.

All of them need a reference that was recorded with labels, and all of them trust that confidence
keeps its meaning under the shift; docs/monitor.md says how far they are off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qact import checks
from qact import registry as _registry
from qact.monitor.reference import Reference
from qact.monitor.signals import CONFIDENCE
from qact.monitor.window import Window

Estimate = Callable[[Reference, Window], float]


@dataclass(frozen=True)
class Entry(_registry.Entry):
    """What the registry knows of an estimate."""


ESTIMATES = _registry.Registry("estimate of accuracy", Entry)
register = ESTIMATES.register
names = ESTIMATES.names


def estimate(reference: Reference, window: Window) -> dict[str, float]:
    """Estimate the accuracy of a window by every way, in [0, 1].

    Raises:
        ValueError: the reference has no labels, or the window no confidence.

    Example:
        >>> names()
        ['atc', 'doc', 'weighted']
    """
    if not (isinstance(reference, Reference) and isinstance(window, Window)):
        raise TypeError(
            "estimate takes a reference and a window of it, got "
            f"{checks.shown(reference)} and {checks.shown(window)}"
        )
    if not len(reference.hits):
        raise ValueError(
            "an estimate of accuracy needs labels: record(model, loader) with pairs (input, labels)"
        )
    window.context(CONFIDENCE)
    return {name: min(max(ESTIMATES[name](reference, window), 0.0), 1.0) for name in names()}


@register("atc", paper="Garg et al. 2022, arXiv 2201.04234, equations 1 and 2")
def thresholded(reference: Reference, window: Window) -> float:
    """Share of confidences above ``t``, where the source's share above ``t`` is its accuracy."""
    confidence = reference.confidence.double().sort().values
    wrong = int((~reference.hits).sum())
    if wrong == 0:
        return 1.0
    threshold = confidence[wrong - 1] + torch.finfo(torch.float32).eps
    return 1.0 - _share_below(window, threshold[None]).item()


@register("doc", paper="Guillory et al. 2021, arXiv 2107.03315, equation 3")
def difference(reference: Reference, window: Window) -> float:
    """The source's accuracy, less what the mean confidence has fallen by."""
    fallen = reference.confidence.double().mean() - window.context(CONFIDENCE).mean.double()
    return float(reference.hits.double().mean() - fallen)


@register("weighted", paper="Shimodaira 2000; weights by confidence, as Chen et al. 2021 slice")
def weighted(reference: Reference, window: Window, slices: int = 10) -> float:
    """Mean accuracy of slices of confidence, weighted by the window's share of each slice."""
    confidence, hits = reference.confidence.double(), reference.hits.double()
    ends = torch.quantile(
        confidence, torch.linspace(0, 1, slices + 1, dtype=torch.float32).double()[1:-1]
    ).unique()
    place = torch.bucketize(confidence, ends, right=True)
    count = torch.bincount(place, minlength=len(ends) + 1).double()
    right = torch.bincount(place, hits, minlength=len(ends) + 1)
    share = torch.cat([ends.new_zeros(1), _share_below(window, ends), ends.new_ones(1)]).diff()
    return float(
        (share * right / count.clamp_min(1)).sum() / share[count > 0].sum().clamp_min(1e-9)
    )


def _share_below(window: Window, values: Tensor) -> Tensor:
    """The window's distribution function of confidence at increasing ``values``, float64."""
    context = window.context(CONFIDENCE)
    rank = context.cdf(values[:, None].float())
    return rank[:, 0].double()
