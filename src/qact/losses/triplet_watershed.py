"""Triplet-Watershed (Challa et al. 2022, arXiv 2103.09384): triplets of propagated labels.

Seeds keep their true labels, everything else takes the label that the seeded watershed gives it,
and the triplet loss is taken over *those* labels: unlabelled samples take part. In the authors'
code the distances of the propagation use a random subset of features, 0.4 D of them but at most 32,
and 0.4 of the labelled samples of each class are seeds. There triplets are drawn at random, over a
whole epoch's graph; here they are mined in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qact import checks
from qact.losses.checks import embedded
from qact.losses.distances import pairwise_distances
from qact.losses.forest import propagate
from qact.losses.mining import MINERS
from qact.losses.registry import register
from qact.losses.seeds import choose_seeds
from qact.losses.triplet import hinge


def triplet_watershed_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 1.0,
    miner: str = "semi_hard",
    seeds: int | float = 0.4,
    features: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the triplet loss of the labels that the seeded watershed propagates, a scalar.

    Args:
        embeddings: (N, D), floating; half precision is computed in float32.
        labels: (N,) integer; negative where the class is not known.
        margin: of the triplet loss, positive.
        miner: ``"all"``, ``"hard"`` or ``"semi_hard"``, see :func:`qact.losses.triplet_loss`.
            Propagated labels are partly wrong, and ``"hard"`` would pick just those: the embedding
            then collapses to a point.
        seeds: samples of each class that keep their labels: an integer, or a share in (0, 1).
        features: how many random features the propagation sees; None for the authors'
            ``min(0.4 D, 32)``, at least 1.
        generator: source of the random seeds and features.

    Returns:
        The loss; 0 with zero gradient if there is no triplet, as when no label is known.

    Raises:
        ValueError: shapes or options are not as described, or an embedding is not finite.
        TypeError: embeddings are not floating or labels not integer.

    Example:
        >>> x, y = torch.tensor([[0.0], [0.2], [5.0], [5.2]]), torch.tensor([0, -1, 1, -1])
        >>> triplet_watershed_loss(x, y)  # both unknown samples are found: no triplet is violated
        tensor(0.)
    """
    checks.number("margin", margin, "a positive number", 0)
    checks.choice("miner", miner, tuple(MINERS))
    x, y = embedded(embeddings, labels)
    d = pairwise_distances(x)
    with torch.no_grad():
        chosen = choose_seeds(y, seeds, generator=generator)
        some = _features(x.shape[1], features, generator).to(x.device)
        seed = propagate(pairwise_distances(x.detach()[:, some]), chosen)
        reached = (seed >= 0).nonzero()[:, 0]
        a, p, n = MINERS[miner](d.detach()[reached][:, reached], y[seed[reached]], margin)
    ap, an = d[reached[a], reached[p]], d[reached[a], reached[n]]
    return hinge(ap, an, margin, active=miner == "all")


def _features(size: int, features: int | None, generator: torch.Generator | None) -> Tensor:
    count = max(1, min(int(0.4 * size), 32)) if features is None else features
    if checks.integer("features", count, 1) > size:
        raise ValueError(f"features={features!r} must be at most the embedding size, {size}")
    device = "cpu" if generator is None else generator.device
    return torch.randperm(size, generator=generator, device=device)[:count]


@register("triplet_watershed", paper="Challa et al. 2022, arXiv 2103.09384")
class TripletWatershedLoss(nn.Module):
    """:func:`triplet_watershed_loss` as a module.

    Raises:
        ValueError: ``margin`` or ``miner`` is not as described.

    Example:
        >>> TripletWatershedLoss()(torch.randn(8, 3), torch.arange(8) % 2).shape
        torch.Size([])
    """

    def __init__(
        self,
        margin: float = 1.0,
        miner: str = "semi_hard",
        seeds: int | float = 0.4,
        features: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.margin = checks.number("margin", margin, "a positive number", 0)
        self.miner = checks.choice("miner", miner, tuple(MINERS))
        self.seeds = seeds
        self.features = features
        self.generator = generator

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return triplet_watershed_loss(
            embeddings,
            labels,
            margin=self.margin,
            miner=self.miner,
            seeds=self.seeds,
            features=self.features,
            generator=self.generator,
        )

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return (
            f"margin={self.margin}, miner={self.miner!r}, seeds={self.seeds}, "
            f"features={self.features}"
        )
