"""Thresholds that follow the stream: a quantile of a running context of scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.context import Context
from qact.scores.score import Score, quantile_of


class Following(nn.Module):
    """Flag what is outlying among the latest samples, not among those of the training data.

    A shift of the whole background, as a corruption of every image, moves all scores; a fixed
    threshold then flags everything. Here the threshold is the quantile of a context that starts as
    the fitted one and forgets: before each batch of ``n`` its mass shrinks by ``memory / (memory +
    n)``. With outliers mixed in as a share ``contamination``, the quantile at ``1 - (contamination
    + rate (1 - contamination))`` flags them and a share ``rate`` of the rest.

    What it cannot know: which of the flagged are outliers. Where a share ``q`` of them is caught,
    ``(contamination + rate (1 - contamination) - contamination q) / (1 - contamination)`` of the
    rest is flagged: ``rate`` if all are, and up to ``rate + contamination / (1 - contamination)``
    where the score does not tell them from the background. With ``contamination=0`` false alarms
    stay below ``rate / (1 - c)`` whatever the true share ``c``, and fewer outliers are caught. A
    stream of outliers alone becomes the background too.

    Args:
        score: fitted, with in-distribution scores seen.
        rate: of false alarms.
        memory: how many of the latest samples count.
        contamination: share of outliers that is expected at most, in [0, 1).

    Attributes:
        running: the :class:`qact.Context` of the latest scores.

    Example:
        >>> from qact.scores import Energy
        >>> draw = torch.Generator().manual_seed(0)
        >>> score = Energy().observe(torch.randn(2000, generator=draw))
        >>> moved = Following(score, memory=500)
        >>> for _ in range(20):  # the background drifts by five standard deviations
        ...     flags = moved.flag(5 + torch.randn(500, generator=draw))
        >>> bool(flags.float().mean() < 0.1)
        True
    """

    running: Context

    def __init__(
        self,
        score: Score,
        rate: float = 0.05,
        *,
        memory: float = 1000.0,
        contamination: float = 0.0,
    ) -> None:
        super().__init__()
        self.score = score
        self.rate = checks.number("rate", rate, "in (0, 1)", 0, 1 - 1e-12)
        self.memory = checks.number("memory", memory, "a positive number", 0)
        self.contamination = checks.within("contamination", contamination, 0, 1)
        score.threshold(rate)  # it has seen enough, or says so
        self.running = score.seen.clone().compact()
        self.running.decay(min(1.0, memory / float(score.seen.count)))

    def threshold(self) -> float:
        """The threshold that the next batch meets."""
        return quantile_of(self.running, self.contamination + self.rate * (1 - self.contamination))

    @torch.no_grad()
    def flag(self, x: Any) -> Tensor:
        """Return which samples exceed the threshold (N,) bool, then follow the batch.

        ``x`` is a batch of inputs, :class:`qact.scores.Outputs`, or scores (N,).
        """
        scores = x if isinstance(x, Tensor) and x.ndim == 1 else self.score.score(x)
        flags = scores > self.threshold()
        finite = scores[torch.isfinite(scores)]
        if len(finite):
            self.running.decay(self.memory / (self.memory + len(finite)))
            self.running.add(finite[:, None].float()).compact()
        return flags

    def forward(self, x: Any) -> Tensor:
        """As :meth:`flag`."""
        return self.flag(x)
