"""Whether a network that follows the stream says more about its samples than the source does.

What its predictions say is the mutual information between sample and predicted class

    I = H(mean_i p_i) - mean_i H(p_i),

large where each sample is sure of its class and the classes differ (Bridle, Heading and MacKay
1991; Krause, Perona and Gomes 2010, "Discriminative clustering by regularized information
maximization"). No label is needed. Neither half is enough: a source that a shift has made predict
one class for everything may be very sure of it, and samples of one class that are measured against
themselves are spread over all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MARGIN, UNSURE = 0.02, 1 / 3


def terms(logits: Tensor) -> Tensor:
    """Sums over rows of ``p`` and of ``-sum_c p log p``, (C + 1,) in float64."""
    p = logits.double().softmax(1)
    entropy = torch.special.entr(p).sum(1, keepdim=True)
    return torch.cat([p, entropy], 1).sum(0)


def information(total: Tensor, count: float) -> float:
    """``I`` in nats from :func:`terms` over ``count`` rows.

    >>> sure = torch.tensor([[99.0, 0.0], [0.0, 99.0]])
    >>> round(information(terms(sure), 2), 4), round(information(terms(0 * sure), 2), 4)
    (0.6931, 0.0)
    """
    mean = total / count
    return float(torch.special.entr(mean[:-1]).sum() - mean[-1])


class Evidence:
    """What source and follower say about the same samples, the older ones fading.

    The follower is worth its risk if it says more by :data:`MARGIN` (of ``log C``, the most there
    is to say). Samples that may all be of one class prove little, so ``1 + C / n_eff`` times that
    is asked of them. A source that leaves more than :data:`UNSURE` of ``log C`` open has little to
    lose, and asks for no proof.

    Args:
        half_life: samples after which one counts half.
    """

    def __init__(self, half_life: float) -> None:
        self.half_life = half_life
        self.totals: Tensor | None = None  # (2, C + 1): the source's, the follower's
        self.count = 0.0

    def add(self, source: Tensor, follower: Tensor) -> None:
        """Logits (n, C) of both networks for new samples."""
        fade = 0.5 ** (len(source) / self.half_life)
        new = torch.stack([terms(source), terms(follower)])
        self.totals = new if self.totals is None else fade * self.totals + new
        self.count = fade * self.count + len(source)

    def worth(self, size: float) -> bool:
        """Whether the follower is, by samples of the effective size ``n_eff``.

        >>> evidence = Evidence(100)
        >>> evidence.add(torch.eye(2), 9 * torch.eye(2))
        >>> evidence.worth(size=2)
        True
        """
        return self.proven(size) or self._unsure()

    def proven(self, size: float) -> bool:
        """Whether the follower says enough more, however unsure the source is."""
        if self.totals is None:
            return False
        source, follower = (information(total, self.count) for total in self.totals)
        return follower - source > MARGIN * (1 + self._classes / size) * self._most

    def _unsure(self) -> bool:
        if self.totals is None:
            return False
        return float(self.totals[0, -1]) / self.count > UNSURE * self._most

    @property
    def _classes(self) -> int:
        return 0 if self.totals is None else self.totals.shape[1] - 1

    @property
    def _most(self) -> float:
        return math.log(max(2, self._classes))
