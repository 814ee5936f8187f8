"""The learning rate as a function of the step and the history, so that nothing has to be restored.

With $T$ steps in all, $W$ of them warm-up, $t$ the step from 0 on and $p$ the highest rate:

- ``one_cycle``: up and down again, see :func:`one_cycle`;
- ``cosine``: $p (1 + \\cos(\\pi (t - W) / (T - W))) / 2$ (Loshchilov and Hutter, arXiv 1608.03983);
- ``multistep``: $p$, a tenth, a hundredth, a thousandth, after 1/2, 3/4 and 7/8 of $T$;
- ``plateau``: a tenth whenever validation accuracy has stalled, see :func:`plateau`;
- ``constant``: $p$;
- ``triangle``: $p (T - t) / (T - W)$, straight down to nothing.

Warm-up, for the four that have none of their own, is $p (t + 1) / (W + 1)$ for $t < W$.
"""

from __future__ import annotations

from math import cos, pi

import torch
from torch import nn

from qact.bench.recipe.training import Training

MILESTONES = (1 / 2, 3 / 4, 7 / 8)
GAIN = 0.001  # of validation accuracy, that early stopping counts as one


def rate(training: Training, step: int, steps_per_epoch: int, scores: list[float]) -> float:
    """Return the learning rate of a step; ``scores`` are the validation accuracies so far.

    Example:
        >>> cosine = Training(epochs=10, lr=0.1, schedule="cosine", warmup=1.0)
        >>> [round(rate(cosine, step, 4, []), 3) for step in (0, 3, 4, 22, 39)]
        [0.02, 0.08, 0.1, 0.05, 0.0]
    """
    steps, peak = training.epochs * steps_per_epoch, training.lr
    if training.schedule == "one_cycle":
        return one_cycle(step, steps, peak)
    if training.schedule == "plateau":
        return plateau(scores, peak)
    warmup = round(training.warmup * steps_per_epoch)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if training.schedule == "cosine":
        return peak * (1 + cos(pi * (step - warmup) / max(1, steps - warmup))) / 2
    if training.schedule == "triangle":
        return peak * (steps - step) / (steps - warmup)
    if training.schedule == "multistep":
        return peak * 0.1 ** sum(step >= share * steps for share in MILESTONES)
    return peak


def one_cycle(step: int, steps: int, peak: float) -> float:
    """Return the learning rate of Smith and Topin's schedule (arXiv 1708.07120), cosine annealed.

    From ``peak/25`` up to ``peak`` over the first 30% of the steps, then down to ``peak/250000``:
    the values of ``torch.optim.lr_scheduler.OneCycleLR``, as a function of the step so that nothing
    has to be restored.

    Example:
        >>> [round(one_cycle(step, 101, 0.1), 4) for step in (0, 29, 100)]
        [0.004, 0.1, 0.0]
    """
    top, last = max(0.3 * steps - 1, 0.0), steps - 1
    if step < top:
        low, share = peak / 25, 1 - step / top
    else:
        low, share = peak / 250_000, (step - top) / max(last - top, 1)
    return low + (peak - low) * (1 + cos(pi * share)) / 2


def plateau(scores: list[float], peak: float) -> float:
    """Return the rate after these validation accuracies, by torch's ``ReduceLROnPlateau``.

    The constants are the paper's (arXiv 2405.11573v1, appendix B): a tenth after 50 epochs without
    a gain of 0.01, 10 epochs of rest, never below 1e-6.

    Example:
        >>> plateau([0.5] * 52, 1e-3), plateau([0.5] * 51, 1e-3)
        (0.0001, 0.001)
    """
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=peak)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        "max",
        factor=0.1,
        patience=50,
        cooldown=10,
        threshold=0.01,
        threshold_mode="abs",
        min_lr=1e-6,
    )
    for score in scores:
        schedule.step(score)
    return float(optimizer.param_groups[0]["lr"])


def stalled(scores: list[float], patience: int) -> bool:
    """Return whether the last ``patience`` epochs brought no gain; never with a patience of 0.

    Example:
        >>> stalled([0.5, 0.6, 0.6, 0.6], 2), stalled([0.5, 0.6, 0.6, 0.61], 2)
        (True, False)
    """
    if not patience or len(scores) <= patience:
        return False
    return max(scores[-patience:]) < max(scores[:-patience]) + GAIN
