"""The triplet loss (Schroff et al. 2015, arXiv 1503.03832; Hermans et al. 2017, 1703.07737)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.losses.checks import embedded
from qact.losses.distances import METRICS, distances_to, measured
from qact.losses.mining import MINERS, hardest, pairs
from qact.losses.registry import register


def triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 1.0,
    miner: str = "semi_hard",
    metric: str = "euclidean",
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
    itself: Tensor | None = None,
) -> Tensor:
    """Return ``(1/T) sum max(0, margin + d_ap - d_an)`` over mined triplets, a scalar.

    ``d`` is the Euclidean distance (Hermans et al. eq. 2; FaceNet's eq. 3 squares it), ``a`` and
    ``p`` are of one class, ``n`` of another.

    Args:
        embeddings: (N, D), floating; half precision is computed in float32.
        labels: (N,) integer.
        margin: in units of the embeddings, positive.
        miner: ``"all"`` triplets, of which only those with a positive term are averaged ("batch
            all", without them the mean goes to 0 as training goes on); ``"hard"``: farthest
            positive, nearest negative of each anchor, which from scratch may collapse the
            embedding to a point; ``"semi_hard"``: negatives beyond the positive but within the
            margin. See :mod:`qact.losses.mining`.
        metric: ``"euclidean"``, ``"squared"``, ``"normalised"`` (Euclidean, of embeddings of
            length 1) or ``"cosine"`` (``1 - cos``).
        references: (M, D), among which positives and negatives are; None for the batch.
        reference_labels: (M,), theirs.
        itself: (N,), where among the references each sample stands, if it does.

    Returns:
        The loss; 0 with zero gradient if there is no triplet (one class, one sample of each, or
        every negative beyond the margin).

    Raises:
        ValueError: shapes, ``margin`` or ``miner`` are not as described, or an embedding is not
            finite.
        TypeError: embeddings are not floating or labels not integer.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0], [1.5]])
        >>> triplet_loss(x, torch.tensor([0, 0, 1]), miner="hard")  # 1 + 1 - 1.5, 1 + 1 - 0.5
        tensor(1.)
    """
    checks.number("margin", margin, "a positive number", 0)
    checks.choice("miner", miner, tuple(MINERS))
    checks.choice("metric", metric, METRICS)
    x, y = embedded(embeddings, labels)
    if miner == "hard" and metric == "euclidean" and references is None:
        anchor, p, n = hardest(x, y)
        pair = torch.arange(len(x), device=x.device)[:, None].repeat(1, 2)  # itself: distance 0
        pair[anchor] = torch.stack([p, n], 1)
        ap, an = distances_to(x, pair)[anchor].unbind(1)
        return hinge(ap, an, margin)
    if references is None:
        among, d = pairs(y), measured(x, metric=metric)
    else:
        if reference_labels is None:
            raise ValueError("references need reference_labels, got None")
        r, z = embedded(references, reference_labels)
        among, d = pairs(y, z, itself), measured(x, r.to(x.dtype), metric)
    a, p, n = MINERS[miner](d.detach(), y, margin, among)
    return hinge(d[a, p], d[a, n], margin, active=miner == "all")


def hinge(ap: Tensor, an: Tensor, margin: float, *, active: bool = False) -> Tensor:
    """Return the mean of ``max(0, margin + d_ap - d_an)``; ``active``: over positive terms only."""
    # The difference first: beside large distances the margin would be rounded away.
    terms = ((ap - an) + margin).clamp_min(0)
    if active:
        terms = terms[terms > 0]
    return terms.mean() if len(terms) else terms.sum()


@register("triplet", paper="Schroff et al. 2015, arXiv 1503.03832, eq. 3")
class TripletLoss(nn.Module):
    """:func:`triplet_loss` as a module.

    Raises:
        ValueError: ``metric``, ``margin`` or ``miner`` is not as described.

    Example:
        >>> import torch
        >>> TripletLoss(miner="all")(torch.randn(8, 3), torch.arange(8) % 2).shape
        torch.Size([])
    """

    def __init__(
        self, margin: float = 1.0, miner: str = "semi_hard", metric: str = "euclidean"
    ) -> None:
        super().__init__()
        self.metric = checks.choice("metric", metric, METRICS)
        self.margin = checks.number("margin", margin, "a positive number", 0)
        self.miner = checks.choice("miner", miner, tuple(MINERS))

    def forward(self, embeddings: Tensor, labels: Tensor, **references: Any) -> Tensor:
        """Return the loss of a batch, against ``references`` if there are some."""
        options = {"margin": self.margin, "miner": self.miner, "metric": self.metric}
        return triplet_loss(embeddings, labels, **options, **references)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"margin={self.margin}, miner={self.miner!r}"
