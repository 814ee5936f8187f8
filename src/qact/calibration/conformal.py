"""Conformal prediction: sets of classes that hold the truth with a stated probability.

From ``n`` held-out scores ``s_i`` (large: unlike the label) a threshold ``q`` is taken, and a new
sample gets all classes whose score is at most ``q``:

    exchangeable   q = the ceil((n + 1)(1 - alpha))-th smallest score, inf if that is beyond n
    weighted       q = the least score with sum_{i: s_i <= q} w_i / (sum_j w_j + 1) >= 1 - alpha

With exchangeable data the set covers the truth with probability between ``1 - alpha`` and ``1 -
alpha + 1/(n + 1)`` (Vovk et al. 2005; Lei et al. 2018), on average over calibration sets. Weights
in [0, 1] say how much each held-out sample resembles the new ones; coverage is then lost at most by
the weighted total variation between them (Barber et al. 2023, arXiv 2202.13415, theorem 2). All
ones recover the first line. :func:`qact.calibration.context_weights` makes weights of contexts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qact import checks
from qact.calibration.bins import in_dtype
from qact.calibration.checks import checked


def conformal_quantile(scores: Tensor, alpha: float, weights: Tensor | None = None) -> float:
    """Return the threshold ``q`` of the head of this module; ``inf`` if samples are too few.

    Args:
        scores: (n,) of held-out samples.
        alpha: the share of misses that is allowed, in (0, 1).
        weights: (n,) in [0, 1]; None for ones.

    Raises:
        ValueError: ``alpha`` or ``weights`` are not as described.

    Example:
        >>> conformal_quantile(torch.arange(1.0, 20.0), 0.1)  # the 18th of 19
        18.0
    """
    checks.number("alpha", alpha, "in (0, 1)", 0, 1 - 1e-12)
    w = weights_checked(scores, weights)
    ordered, order = scores.double().sort()
    # A sum of N ones and a quotient round: 1e-12 is no share of a sample.
    reached = w[order].cumsum(0) >= (1 - alpha) * (w.sum() + 1) - 1e-12 * (len(w) + 1)
    return ordered[reached][0].item() if reached.any() else math.inf


def weights_checked(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return weights (n,) in float64: ones for None, or say what is wrong with them."""
    n = len(values)
    if weights is None:
        return torch.ones(n, dtype=torch.float64, device=values.device)
    if weights.shape != (n,) or not ((weights >= 0) & (weights <= 1)).all():
        raise ValueError(f"weights must be ({n},) in [0, 1], got {tuple(weights.shape)}")
    return weights.double()


class SplitConformal:
    """Prediction sets from probabilities: threshold or adaptive.

    Scores of class ``k`` with probability ``p_k``:

    - ``"threshold"``: ``1 - p_k`` (Sadinle, Lei and Wasserman 2019): the smallest sets on average.
    - ``"adaptive"``: ``sum_{j: p_j > p_k} p_j + u p_k`` with ``u`` uniform in [0, 1] (Romano, Sesia
      and Candes 2020, arXiv 2006.02544, eq. 5 onwards): larger sets for harder samples. Without
      ``randomized``, ``u = 1``: no chance involved. Sets of very sure samples may be empty.

    Args:
        alpha: the share of misses that is allowed, in (0, 1).
        score: ``"threshold"`` or ``"adaptive"``.
        randomized: draw ``u``; for ``"adaptive"`` only.
        generator: source of ``u``.

    Attributes:
        quantile: the fitted threshold.

    Example:
        >>> probs = torch.tensor([[0.7, 0.2, 0.1]]).repeat(99, 1)
        >>> labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 9)
        >>> SplitConformal(0.2).fit(probs, labels).predict(probs[:1])
        tensor([[ True,  True, False]])
    """

    quantile: float
    _dtype = torch.float64  # of the probabilities of the fit

    def __init__(
        self,
        alpha: float = 0.1,
        *,
        score: str = "threshold",
        randomized: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        self.alpha = checks.number("alpha", alpha, "in (0, 1)", 0, 1 - 1e-12)
        self.score = checks.choice("score", score, ("threshold", "adaptive"))
        self.randomized = checks.flag("randomized", randomized)
        self.generator = generator

    def fit(self, probs: Tensor, labels: Tensor, weights: Tensor | None = None) -> SplitConformal:
        """Take the threshold from held-out probabilities (n, C) and labels (n,)."""
        wide, y = checked(probs, labels)
        own = self._scores(wide).gather(1, y[:, None])[:, 0]
        self._dtype = probs.dtype
        self.quantile = conformal_quantile(own, self.alpha, weights)
        return self

    def predict(self, probs: Tensor) -> Tensor:
        """Return which classes each set holds, (N, C) bool."""
        if not hasattr(self, "quantile"):
            raise RuntimeError("there is no threshold yet; call fit(probs, labels)")
        wide, _ = checked(probs, torch.zeros(len(probs), dtype=torch.long, device=probs.device))
        # What equals the threshold belongs to the set. Probabilities of another dtype than those of
        # the fit round otherwise, and sums of them by their order: both sides are rounded alike, as
        # the coarser of the two dtypes has it.
        coarser = max(self._dtype, probs.dtype, key=lambda dtype: torch.finfo(dtype).eps)
        slack = probs.shape[1] * torch.finfo(torch.float64).eps
        if self.score == "adaptive":  # a sum of rounded probabilities, which is at most 1
            slack += torch.finfo(coarser).eps
        bound = in_dtype(self.quantile + slack, coarser).to(probs.device)
        return in_dtype(self._scores(wide), coarser) <= bound

    def _scores(self, p: Tensor) -> Tensor:
        if self.score == "threshold":
            return 1 - p
        above = (p[:, None, :] * (p[:, None, :] > p[:, :, None])).sum(2)
        u = torch.ones(len(p), 1, dtype=p.dtype)
        if self.randomized:
            u = torch.rand(len(p), 1, dtype=p.dtype, generator=self.generator)
        return above + u.to(p.device) * p


@dataclass(frozen=True)
class Coverage:
    """How many sets hold the truth, how large they are on average, and over how many samples."""

    coverage: float
    size: float
    count: int


def coverage(sets: Tensor, labels: Tensor) -> Coverage:
    """Return the coverage of prediction sets (N, C) bool for labels (N,).

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
