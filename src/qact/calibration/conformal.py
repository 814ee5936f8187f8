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

import torch
from torch import Tensor

from qact import checks
from qact.calibration.checks import checked
from qact.calibration.clusters import clustered
from qact.calibration.nonconformity import ALIASES, DRAWN, NONCONFORMITY


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


def conformal_p_values(
    scores: Tensor,
    new: Tensor,
    weights: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the share of held-out scores that are at least as large as each new one.

    ``(sum_{i: s_i >= s} w_i + 1) / (sum_i w_i + 1)``: with exchangeable data at most ``t`` with
    probability at most ``t``, and above ``alpha`` just where ``s`` is at most
    :func:`conformal_quantile`. With a generator ties, and the new sample itself, count by a
    uniform share: then it is uniform (Vovk et al. 2005, eq. 2.20).

    Args:
        scores: (n,) of held-out samples.
        new: any shape.
        weights: (n,) in [0, 1]; None for ones.
        generator: of the shares.

    Example:
        >>> conformal_p_values(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 9.0]))
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    w = weights_checked(scores, weights)
    ordered, order = scores.double().sort()
    behind = torch.cat([w[order].flip(0).cumsum(0).flip(0), w.new_zeros(1)])
    wide = new.double().contiguous()
    at_least = behind[torch.searchsorted(ordered, wide)]
    if generator is None:
        return (at_least + 1) / (w.sum() + 1)
    more = behind[torch.searchsorted(ordered, wide, right=True)]
    share = torch.rand(new.shape, dtype=torch.float64, generator=generator).to(new.device)
    return (more + share * (at_least - more + 1)) / (w.sum() + 1)


class SplitConformal:
    """Prediction sets of probabilities, with coverage for all, for each class, or for groups.

    Scores, and the papers they are from: :mod:`qact.calibration.nonconformity`. Coverage holds for
    what a threshold is taken from: everything; with ``by="class"`` each class (Mondrian: Vovk et
    al. 2005, sec. 4.5); with groups in ``fit`` and ``predict`` each group; with ``by="cluster"``
    clusters of classes whose scores are alike, so that few samples a class are enough (Ding et al.
    2023, arXiv 2306.09335). A class or group without enough samples has the threshold ``inf``.

    Args:
        alpha: the share of misses that is allowed, in (0, 1).
        score: ``"threshold"`` (or ``"lac"``, ``"thr"``): the smallest sets on average;
            ``"adaptive"`` (``"aps"``): larger sets for harder samples; ``"raps"`` and ``"saps"``:
            the same with long tails of small probabilities held short; ``"top_k"``, ``"margin"``.
        randomized: draw ``u`` where the score has one. Without, ``u = 1``: no chance involved. Sets
            of very sure samples may be empty.
        generator: source of ``u``, and of the split into clustering and calibration.
        penalty: ``lam`` of ``"raps"`` (None: 0.01) and ``"saps"`` (None: 0.2).
        free: ``k0`` of ``"raps"``: so many classes go unpunished.
        by: None, ``"class"`` or ``"cluster"``.

    Attributes:
        quantile: the fitted threshold, of all samples.
        quantiles: (C,) thresholds by class, or (G,) by group.
        clusters: (C,) of each class, -1 for those of their own kind too rare to tell.

    Example:
        >>> probs = torch.tensor([[0.7, 0.2, 0.1]]).repeat(99, 1)
        >>> labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 9)
        >>> SplitConformal(0.2).fit(probs, labels).predict(probs[:1])
        tensor([[ True,  True, False]])
    """

    quantile: float
    quantiles: Tensor
    clusters: Tensor
    _dtype = torch.float64  # of the probabilities of the fit
    _groups: Tensor | None = None

    def __init__(
        self,
        alpha: float = 0.1,
        *,
        score: str = "threshold",
        randomized: bool = True,
        generator: torch.Generator | None = None,
        penalty: float | None = None,
        free: int = 5,
        by: str | None = None,
    ) -> None:
        self.alpha = checks.number("alpha", alpha, "in (0, 1)", 0, 1 - 1e-12)
        known = (*NONCONFORMITY, *ALIASES)
        self.score = ALIASES.get(score, checks.choice("score", score, known))
        self.randomized = checks.flag("randomized", randomized)
        self.generator = generator
        usual = 0.2 if self.score == "saps" else 0.01
        self.penalty = usual if penalty is None else checks.within("penalty", penalty, 0)
        self.free = checks.integer("free", free, 0)
        self.by = checks.choice("by", by, (None, "class", "cluster"))

    def fit(
        self,
        probs: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> SplitConformal:
        """Take the thresholds from held-out probabilities (n, C) and labels (n,).

        Args:
            weights: (n,) in [0, 1], see the head of this module.
            groups: (n,) integers; then each group has its own threshold, and ``predict`` is given
                the groups too.
        """
        wide, y = checked(probs, labels)
        w = weights_checked(y, weights)
        own = self._scores(wide).gather(1, y[:, None])[:, 0]
        if groups is not None and (self.by or groups.shape != y.shape):
            raise ValueError(
                f"groups must be ({len(y)},), and by None; got {tuple(groups.shape)} and by="
                f"{self.by!r}"
            )
        self._dtype, self._groups = probs.dtype, None
        kind = y
        if groups is not None:
            self._groups, kind = groups.unique(return_inverse=True)
        elif self.by == "cluster":
            # What told which classes are alike must not be counted once more.
            self.clusters, rest = clustered(own, y, wide.shape[1], self.alpha, self.generator)
            own, w, kind = own[rest], w[rest], self.clusters[y[rest]]
        self.quantile = conformal_quantile(own, self.alpha, w)
        self._held = own, w, kind
        if groups is None and self.by is None:
            return self
        found = [
            conformal_quantile(own[kind == g], self.alpha, w[kind == g]) for g in self._kinds(wide)
        ]
        self.quantiles = torch.tensor(found, dtype=torch.float64, device=wide.device)
        if self.by == "cluster":  # the rare ones have what all have
            by_cluster = torch.cat([self.quantiles, self.quantiles.new_tensor([self.quantile])])
            self.quantiles = by_cluster[self.clusters]
        return self

    def predict(self, probs: Tensor, groups: Tensor | None = None) -> Tensor:
        """Return which classes each set holds, (N, C) bool."""
        wide, threshold = self._asked(probs, groups)
        # What equals the threshold belongs to the set. Probabilities of another dtype than those of
        # the fit round otherwise, and sums of them by their order: both sides are rounded alike, as
        # the coarser of the two dtypes has it.
        coarser = max(self._dtype, probs.dtype, key=lambda dtype: torch.finfo(dtype).eps)
        slack = probs.shape[1] * torch.finfo(torch.float64).eps
        if self.score in DRAWN:  # a sum of rounded probabilities, which is at most 1
            slack += torch.finfo(coarser).eps
        bound = threshold + slack
        if coarser == torch.float64:
            return self._scores(wide) <= bound
        return self._scores(wide).to(coarser) <= bound.to(coarser)

    def p_values(self, probs: Tensor, groups: Tensor | None = None) -> Tensor:
        """Return :func:`conformal_p_values` of every class, (N, C) float64; ``by="cluster"`` too.

        Sets of all classes above ``alpha`` are those of ``predict``, but for what is drawn.
        """
        wide, _ = self._asked(probs, groups)
        scores, (own, w, kind) = self._scores(wide), self._held
        if self._groups is None and self.by is None:
            return conformal_p_values(own, scores, w)
        found = torch.empty_like(scores)
        if self._groups is not None:
            assert groups is not None  # it was asked for
            rows = torch.searchsorted(self._groups, groups)
            for g in range(len(self._groups)):
                found[rows == g] = conformal_p_values(
                    own[kind == g], scores[rows == g], w[kind == g]
                )
            return found
        for k in range(scores.shape[1]):
            code = int(self.clusters[k]) if self.by == "cluster" else k
            mine = kind == code if code >= 0 else torch.ones_like(kind, dtype=torch.bool)
            found[:, k] = conformal_p_values(own[mine], scores[:, k], w[mine])
        return found

    def _asked(self, probs: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor]:
        """Probabilities in float64, and the thresholds that they meet, (), (C,) or (N, 1)."""
        if not hasattr(self, "quantile"):
            raise RuntimeError("there is no threshold yet; call fit(probs, labels)")
        wide, _ = checked(probs, torch.zeros(len(probs), dtype=torch.long, device=probs.device))
        if (groups is None) != (self._groups is None):
            raise ValueError("groups are given in both, fit and predict, or in neither")
        if groups is not None and self._groups is not None:
            where = torch.searchsorted(self._groups, groups).clamp(max=len(self._groups) - 1)
            if groups.shape != wide.shape[:1] or (self._groups[where] != groups).any():
                known = self._groups.tolist()
                raise ValueError(f"groups must be ({len(wide)},) of {known}, got {groups.unique()}")
            return wide, self.quantiles.to(wide.device)[where][:, None]
        if self.by is None:
            return wide, torch.tensor(self.quantile, dtype=torch.float64, device=wide.device)
        if len(self.quantiles) != wide.shape[1]:
            raise ValueError(f"probs must have {len(self.quantiles)} classes, got {wide.shape[1]}")
        return wide, self.quantiles.to(wide.device)

    def _kinds(self, wide: Tensor) -> range:
        if self._groups is not None:
            return range(len(self._groups))
        return range(int(self.clusters.max()) + 1 if self.by == "cluster" else wide.shape[1])

    def _scores(self, p: Tensor) -> Tensor:
        u = torch.ones(len(p), 1, dtype=p.dtype)
        if self.randomized and self.score in DRAWN:
            u = torch.rand(len(p), 1, dtype=p.dtype, generator=self.generator)
        return NONCONFORMITY[self.score](p, u.to(p.device), self.penalty, self.free)
