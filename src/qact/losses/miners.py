"""Miners by the names of pytorch-metric-learning: which pairs or triplets to learn from.

``miner(embeddings, labels)`` gives triplets ``(anchor, positive, negative)`` of indices, or
pairs ``(anchor, positive, anchor, negative)``. With ``references`` and their labels, positives
and negatives are looked for among those. All have a ``metric``, see
:func:`qact.losses.distances.measured`: ``"normalised"`` (the Euclidean distance of embeddings of
length 1) if nothing else is said. Cosines are distances here, ``1 - cos``, so that smaller is
nearer in every metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qact import checks
from qact.losses.checks import embedded
from qact.losses.distances import METRICS, measured
from qact.losses.mining import Triplets, pairs

Pairs = tuple[Tensor, Tensor, Tensor, Tensor]  # anchors, positives, anchors, negatives
Range = tuple[float, float] | None
STRATEGIES = ("easy", "semihard", "hard", "all")


@dataclass
class Miner:
    """What all miners share; :meth:`mine` is the rule of each."""

    def __post_init__(self) -> None:
        checks.choice("metric", getattr(self, "metric", "normalised"), METRICS)

    @torch.no_grad()
    def __call__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> Triplets | Pairs:
        """Return indices of triplets or pairs."""
        x, y = embedded(embeddings.detach(), labels)
        r, z = x, y
        if references is not None:
            if reference_labels is None:
                raise ValueError("references need reference_labels, got None")
            r, z = embedded(references.detach(), reference_labels)
        d = measured(x, None if references is None else r, getattr(self, "metric", "normalised"))
        found: Triplets | Pairs = self.mine(d, *pairs(y, None if references is None else z), x, r)
        return found

    def mine(self, d: Tensor, positive: Tensor, negative: Tensor, x: Tensor, r: Tensor) -> Any:
        """Return the indices, from distances and masks (N, M) and both embeddings."""
        raise NotImplementedError


def _all(positive: Tensor, negative: Tensor) -> Triplets:
    """Every triplet of these pairs, in order; row by row, so that no (N, M, M) is made."""
    found = [
        (torch.full((p.numel() * n.numel(),), i), p.repeat_interleave(len(n)), n.repeat(len(p)))
        for i in range(len(positive))
        if len(p := positive[i].nonzero()[:, 0]) and len(n := negative[i].nonzero()[:, 0])
    ]
    if not found:
        none = torch.zeros(0, dtype=torch.int64, device=positive.device)
        return none, none, none
    a, p, n = (torch.cat(part) for part in zip(*found, strict=True))
    return a.to(positive.device), p, n


@dataclass
class TripletMarginMiner(Miner):
    """Triplets by their margin ``d_an - d_ap``: ``"all"`` at most ``margin``, ``"easy"`` others.

    ``"hard"`` are those of all with a margin of at most 0, ``"semihard"`` those above 0.

    Raises:
        ValueError: ``type_of_triplets`` is not as described.

    Example:
        >>> x, y = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3]]), torch.tensor([0, 0, 1])
        >>> TripletMarginMiner(margin=0.2)(x, y)
        (tensor([1]), tensor([0]), tensor([2]))
    """

    margin: float = 0.2
    type_of_triplets: str = "all"
    metric: str = "normalised"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice("type_of_triplets", self.type_of_triplets, STRATEGIES)

    def mine(self, d: Tensor, positive: Tensor, negative: Tensor, x: Tensor, r: Tensor) -> Triplets:
        """Return the triplets of the type."""
        a, p, n = _all(positive, negative)
        margin = d[a, n] - d[a, p]
        if self.type_of_triplets == "easy":
            keep = margin > self.margin
        else:
            keep = margin <= self.margin
            if self.type_of_triplets != "all":
                keep &= (margin <= 0) == (self.type_of_triplets == "hard")
        return a[keep], p[keep], n[keep]


@dataclass
class BatchEasyHardMiner(Miner):
    """Per anchor one positive and one negative: the hardest, the easiest, or semi-hard.

    A hard positive is the farthest, a hard negative the nearest. ``"semihard"`` is the hardest one
    that is still easier than the other of the two: a negative beyond the positive. ``"all"`` takes
    every pair. Distances outside an allowed range are left out (Xuan et al. 2020, arXiv
    1904.04370).
    """

    pos_strategy: str = "easy"
    neg_strategy: str = "semihard"
    allowed_pos_range: Range = None
    allowed_neg_range: Range = None
    metric: str = "normalised"

    def __post_init__(self) -> None:
        super().__post_init__()
        both = self.pos_strategy, self.neg_strategy
        for name, value in zip(("pos_strategy", "neg_strategy"), both, strict=True):
            checks.choice(name, value, STRATEGIES)
        if both.count("semihard") == 2 or set(both) == {"all", "semihard"}:
            raise ValueError(f"pos_strategy, neg_strategy = {both} do not go together")

    def mine(self, d: Tensor, positive: Tensor, negative: Tensor, x: Tensor, r: Tensor) -> Any:
        """Return a positive and a negative pair of each anchor that has both."""
        sides = {
            "pos": (positive, self.pos_strategy, self.allowed_pos_range, -1),
            "neg": (negative, self.neg_strategy, self.allowed_neg_range, 1),
        }
        found: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        # A semi-hard one needs the other first.
        for side in sorted(sides, key=lambda side: sides[side][1] == "semihard"):
            mask, strategy, allowed, sign = sides[side]
            if strategy == "all":
                continue
            if strategy == "semihard":
                other = found["neg" if side == "pos" else "pos"][0][:, None]
                mask = mask & ((d - other) * sign > 0)
            if allowed is not None:
                mask = mask & (d >= allowed[0]) & (d <= allowed[1])
            # Nearest for hard negatives and easy positives: the least of d, or of -d.
            sign = -sign if strategy == "easy" else sign
            value, at = torch.where(mask, d * sign, torch.inf).min(1)
            found[side] = (value * sign, at, mask.any(1))
        keep = torch.ones(len(d), dtype=torch.bool, device=d.device)
        if len(found) == 2:
            keep = found["pos"][2] & found["neg"][2]
        return (
            *self._side(found, "pos", positive, keep),
            *self._side(found, "neg", negative, keep),
        )

    def _side(
        self, found: dict[str, tuple[Tensor, Tensor, Tensor]], side: str, mask: Tensor, keep: Tensor
    ) -> tuple[Tensor, Tensor]:
        if side not in found:
            anchor, other = mask.nonzero().unbind(1)
            return anchor, other
        _, at, some = found[side]
        anchor = (some & keep).nonzero()[:, 0]
        return anchor, at[anchor]


@dataclass
class BatchHardMiner(BatchEasyHardMiner):
    """Per anchor the farthest positive and the nearest negative (Hermans et al. 2017, 1703.07737).

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0], [1.5]]), torch.tensor([0, 0, 1])
        >>> BatchHardMiner(metric="euclidean")(x, y)
        (tensor([0, 1]), tensor([1, 0]), tensor([2, 2]))
    """

    pos_strategy: str = "hard"
    neg_strategy: str = "hard"

    def mine(self, d: Tensor, positive: Tensor, negative: Tensor, x: Tensor, r: Tensor) -> Triplets:
        """Return a triplet for each anchor that has both."""
        a, p, _, n = super().mine(d, positive, negative, x, r)
        return a, p, n


@dataclass
class MultiSimilarityMiner(Miner):
    """Positives not well before the nearest negative, and negatives not well beyond a positive.

    ``d_ap + epsilon > min d_an`` and ``d_an - epsilon < max d_ap`` (Wang et al. 2019, arXiv
    1904.06627, eq. 7 and 8).
    """

    epsilon: float = 0.1
    metric: str = "cosine"

    def mine(self, d: Tensor, positive: Tensor, negative: Tensor, x: Tensor, r: Tensor) -> Pairs:
        """Return the pairs."""
        nearest = torch.where(negative, d, torch.inf).amin(1, keepdim=True)
        farthest = torch.where(positive, d, -torch.inf).amax(1, keepdim=True)
        a1, p = (positive & (d + self.epsilon > nearest)).nonzero().unbind(1)
        a2, n = (negative & (d - self.epsilon < farthest)).nonzero().unbind(1)
        return a1, p, a2, n


@dataclass
class PairMarginMiner(Miner):
    """Positive pairs farther than ``pos_margin`` and negative pairs nearer than ``neg_margin``."""

    pos_margin: float = 0.2
    neg_margin: float = 0.8
    metric: str = "normalised"

    def mine(self, d: Tensor, positive: Tensor, negative: Tensor, x: Tensor, r: Tensor) -> Pairs:
        """Return the pairs."""
        a1, p = (positive & (d > self.pos_margin)).nonzero().unbind(1)
        a2, n = (negative & (d < self.neg_margin)).nonzero().unbind(1)
        return a1, p, a2, n


@dataclass
class AngularMiner(Miner):
    """Triplets whose angle ``atan(d_ap / (2 ||n - (a + p) / 2||))`` is above ``angle`` degrees.

    Wang et al. 2017, arXiv 1708.01682. Of the embeddings as they are, not of length 1.
    """

    angle: float = 20.0

    def mine(self, d: Tensor, positive: Tensor, negative: Tensor, x: Tensor, r: Tensor) -> Triplets:
        """Return the triplets."""
        a, p, n = _all(positive, negative)
        ap, an, pn = (
            measured(x, r, "squared")[a, p],
            measured(x, r, "squared")[a, n],
            measured(r, None, "squared")[p, n],
        )
        centre = ((an + pn) / 2 - ap / 4).clamp_min(0)  # Apollonius: ||n - (a + p) / 2||^2
        keep = torch.atan(ap.sqrt() / (2 * centre.sqrt())) > math.radians(self.angle)
        return a[keep], p[keep], n[keep]


@dataclass
class HDCMiner(Miner):
    """The farthest share of the positive pairs and the nearest of the negative ones.

    Yuan, Yang and Zhang 2017, arXiv 1611.05720.
    """

    filter_percentage: float = 0.5
    metric: str = "normalised"

    def mine(self, d: Tensor, positive: Tensor, negative: Tensor, x: Tensor, r: Tensor) -> Pairs:
        """Return the pairs, hardest first."""
        found = []
        for mask, largest in ((positive, True), (negative, False)):
            a, other = mask.nonzero().unbind(1)
            count = math.ceil(self.filter_percentage * len(a))
            best = d[a, other].topk(count, largest=largest)[1]
            found += [a[best], other[best]]
        return found[0], found[1], found[2], found[3]


@dataclass
class DistanceWeightedMiner(Miner):
    """For every positive pair a random negative, by one over the density of its distance.

    On a sphere of D dimensions ``q(d) ~ d^(D-2) (1 - d^2/4)^((D-3)/2)`` (Wu et al. 2017, arXiv
    1706.07567, section 4), ``d`` at least ``cutoff``, and below ``nonzero_loss_cutoff``.
    """

    cutoff: float = 0.5
    nonzero_loss_cutoff: float = 1.4
    generator: torch.Generator | None = None

    def mine(self, d: Tensor, positive: Tensor, negative: Tensor, x: Tensor, r: Tensor) -> Triplets:
        """Return the triplets."""
        weight = self.weights(d, negative, x.shape[1])
        a, p = (positive & (weight.sum(1) > 0)[:, None]).nonzero().unbind(1)
        if not len(a):
            return a, p, a
        n = torch.multinomial(weight[a], 1, generator=self.generator)[:, 0]
        return a, p, n

    def weights(self, d: Tensor, negative: Tensor, size: int) -> Tensor:
        """Return the chance of each negative up to a factor, (N, M)."""
        d = d.clamp(self.cutoff, 2)
        log = (2 - size) * d.log() - (size - 3) / 2 * (1 - d.square() / 4).log()
        some = negative & (d < self.nonzero_loss_cutoff) & log.isfinite()
        log = torch.where(some, log, -torch.inf)
        return torch.where(some, (log - log.amax(1, keepdim=True)).exp(), 0)


@dataclass
class UniformHistogramMiner(Miner):
    """Pairs at random, with the same number from each of equally wide bins of their distances."""

    num_bins: int = 100
    pos_per_bin: int = 10
    neg_per_bin: int = 10
    metric: str = "normalised"
    generator: torch.Generator | None = None

    def mine(self, d: Tensor, positive: Tensor, negative: Tensor, x: Tensor, r: Tensor) -> Pairs:
        """Return the pairs, bin by bin, with replacement."""
        a1, p = self._even(d, positive, self.pos_per_bin)
        a2, n = self._even(d, negative, self.neg_per_bin)
        return a1, p, a2, n

    def _even(self, d: Tensor, mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
        anchor, other = mask.nonzero().unbind(1)
        if not len(anchor):
            return anchor, other
        value = d[anchor, other]
        low, high = value.min(), value.max()
        width = (high - low) / self.num_bins
        place = ((value - low) / width).long() if width > 0 else torch.zeros_like(anchor)
        place = place.clamp_max(self.num_bins - 1)
        order, size = place.argsort(stable=True), torch.bincount(place, minlength=self.num_bins)
        start, some = size.cumsum(0) - size, size > 0
        draw = torch.rand(int(some.sum()), count, generator=self.generator, dtype=torch.float32)
        draw = draw.to(d.device)
        pick = (start[some, None] + (draw * size[some, None]).long()).flatten()
        chosen = order[pick]
        return anchor[chosen], other[chosen]


MINERS: dict[str, Callable[..., Miner]] = {
    miner.__name__: miner
    for miner in (
        AngularMiner,
        BatchEasyHardMiner,
        BatchHardMiner,
        DistanceWeightedMiner,
        HDCMiner,
        MultiSimilarityMiner,
        PairMarginMiner,
        TripletMarginMiner,
        UniformHistogramMiner,
    )
}
