"""One call each: reliability diagrams, calibration against severity, risk against coverage.

Every function draws on matplotlib axes and returns what they drew on; give ``axes`` to place a
drawing in a figure of your own. Needs the extra ``bench``, or matplotlib alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qact import extras
from qact.calibration.bins import Binning, Reliability
from qact.calibration.error import reliability
from qact.calibration.selective import risk_coverage

_QUIET = "0.55"  # grey of reference lines


def wilson_interval(rate: Tensor, count: Tensor, z: float = 1.959964) -> tuple[Tensor, Tensor]:
    """Return the Wilson score interval of rates of ``count`` trials (Wilson 1927), 95% by default.

    Example:
        >>> low, high = wilson_interval(torch.tensor([0.0, 0.5]), torch.tensor([10.0, 100.0]))
        >>> low, high
        (tensor([0.0000, 0.4038]), tensor([0.2775, 0.5962]))
    """
    n = count.clamp(min=1)
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (rate * (1 - rate) / n + z * z / (4 * n * n)).sqrt()
    return (centre - half).clamp(min=0), (centre + half).clamp(max=1)


def reliability_diagram(
    probs: Tensor,
    labels: Tensor,
    *,
    n_bins: int = 15,
    binning: Binning = "equal_width",
    axes: Sequence[Any] | None = None,
    title: str = "",
) -> Any:
    """Draw accuracy against confidence, with 95% bands of each bin, and counts below.

    Args:
        probs: class probabilities (N, C).
        labels: true classes (N,).
        n_bins: number of bins.
        binning: ``"equal_width"`` or ``"equal_mass"``.
        axes: two axes, for accuracies and counts; None for a new figure.
        title: above the diagram.

    Returns:
        The figure.

    Example:
        >>> probs = torch.rand(100, 3).softmax(1)
        >>> figure = reliability_diagram(probs, torch.arange(100) % 3)
        >>> len(figure.axes)
        2
    """
    bins = reliability(probs, labels, n_bins=n_bins, binning=binning)
    upper, lower = _axes(2, height_ratios=(3, 1)) if axes is None else axes
    upper.plot([0, 1], [0, 1], color=_QUIET, linestyle="--", linewidth=1)
    _draw_bins(upper, lower, bins)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=title)
    lower.set(xlim=(0, 1), xlabel="confidence", ylabel="count")
    return upper.figure


def _draw_bins(upper: Any, lower: Any, bins: Reliability) -> None:
    used = bins.count > 0
    y, n = bins.accuracy[used], bins.count[used]
    low, high = wilson_interval(y, n)
    errors = _arrays(y - low, high - y)
    x, rate, height, *band = _arrays(bins.confidence[used], y, n, low, high)
    upper.fill_between(x, *band, alpha=0.2, linewidth=0)
    upper.errorbar(x, rate, errors, marker="o", markersize=4, linewidth=1, capsize=2)
    lower.bar(x, height, width=0.6 / len(bins.count))


def severity_curves(
    curves: Mapping[str, Mapping[int, Sequence[float]]],
    *,
    label: str = "calibration error",
    axes: Any | None = None,
) -> Any:
    """Draw a metric against severity: the mean of each method, with one standard deviation.

    Args:
        curves: for each method, for each severity, the values whose spread is the band: one for
            each seed.
        label: of the vertical axis.
        axes: where to draw; None for a new figure.

    Returns:
        The figure.

    Example:
        >>> figure = severity_curves({"relu": {0: [0.01, 0.02], 5: [0.2, 0.3]}})
        >>> len(figure.axes[0].lines)
        1
    """
    axes = _axes(1) if axes is None else axes
    for name, curve in curves.items():
        severities = sorted(curve)
        values = [torch.tensor(list(curve[s]), dtype=torch.float64) for s in severities]
        mean = torch.stack([v.mean() for v in values])
        sd = torch.stack([v.std() if len(v) > 1 else v.new_zeros(()) for v in values])
        low, middle, high = _arrays(mean - sd, mean, mean + sd)
        axes.fill_between(severities, low, high, alpha=0.2, linewidth=0)
        axes.plot(severities, middle, marker="o", markersize=4, label=name)
    axes.set(xlabel="severity (0 = clean)", ylabel=label)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return axes.figure


def risk_coverage_curves(
    predictions: Mapping[str, tuple[Tensor, Tensor]], *, axes: Any | None = None
) -> Any:
    """Draw the error rate of the most confident predictions against their share.

    Args:
        predictions: for each method, probabilities (N, C) and labels (N,).
        axes: where to draw; None for a new figure.

    Returns:
        The figure.

    Example:
        >>> probs = torch.rand(100, 3).softmax(1)
        >>> figure = risk_coverage_curves({"relu": (probs, torch.arange(100) % 3)})
        >>> figure.axes[0].get_xlabel()
        'coverage'
    """
    axes = _axes(1) if axes is None else axes
    for name, (probs, labels) in predictions.items():
        share, risk = risk_coverage(probs, labels)
        axes.plot(*_arrays(share, risk), label=f"{name} (AURC {risk.mean():.3f})")
    axes.set(xlabel="coverage", ylabel="error rate", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return axes.figure


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """Return what matplotlib draws: numpy warns where it must wrap its results as tensors."""
    return tuple(tensor.cpu().numpy() for tensor in tensors)


def _axes(rows: int, **ratios: Any) -> Any:
    with extras.needed("a plot", "bench"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    figure = Figure((4.5, 4.5 if rows > 1 else 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.subplots(rows, 1, sharex=True, **ratios)
