"""Mean average precision of embeddings: are a sample's nearest neighbours of its class?"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qact import checks
from qact.vectors import unit_of

_CHUNK = 256  # queries at a time


@torch.no_grad()
def mean_average_precision(
    embeddings: Tensor,
    labels: Tensor,
    *,
    k: int = 100,
    divide_by: Literal["relevant", "retrieved"] = "relevant",
) -> float:
    """Return MAP@k: each sample is a query among all the others, ranked by Euclidean distance.

    With ``rel_j = 1`` if the ``j``-th neighbour has the query's class, ``R`` others of that class::

        AP@k = 1/D sum_{j<=k} rel_j (sum_{i<=j} rel_i) / j
        D = min(k, R)  ("relevant"),  or  sum_{j<=k} rel_j  ("retrieved", 1 if that is 0)

    The Quantile Activation paper reports MAP@100 and does not say which ``D``; torchmetrics'
    ``RetrievalMAP(top_k=k)`` takes "retrieved", which forgives classes that are not found.
    Queries without others of their class are left out; neighbours that are equally far stand in the
    order of the samples.

    Args:
        embeddings: (N, D), floating.
        labels: (N,), integer.
        k: neighbours that are looked at.
        divide_by: ``"relevant"`` or ``"retrieved"``.

    Raises:
        ValueError: shapes do not fit, an embedding is not finite, an option is unknown, or no query
            has others of its class.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0], [1.5], [2.9]])
        >>> mean_average_precision(x, torch.tensor([0, 0, 1, 1]), k=3)  # (1 + 1/2 + 1/2 + 1) / 4
        0.75
    """
    checks.integer("k", k, 1)
    checks.choice("divide_by", divide_by, ("relevant", "retrieved"))
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            "embeddings must be (N, D) and labels (N,), got "
            f"{tuple(embeddings.shape)} and {tuple(labels.shape)}"
        )
    x = embeddings.detach() if embeddings.dtype == torch.float64 else embeddings.detach().float()
    if not torch.isfinite(x).all():
        raise ValueError("embeddings must be finite")
    x = x / unit_of(x)  # a scale changes no order, and squares stay in range
    k = max(min(k, len(x) - 1), 0)
    scores = [
        _average_precision(x, labels, rows, k, divide_by)
        for rows in torch.arange(len(x), device=x.device).split(_CHUNK)
    ]
    found = torch.cat(scores) if scores else x.new_empty(0)
    if not len(found):
        raise ValueError("no sample has another one of its class; there is nothing to retrieve")
    return found.mean().item()


def _average_precision(x: Tensor, labels: Tensor, rows: Tensor, k: int, divide_by: str) -> Tensor:
    d = torch.cdist(x[rows], x, compute_mode="donot_use_mm_for_euclid_dist")
    d[torch.arange(len(rows), device=x.device), rows] = torch.inf  # not one's own neighbour
    order = d.argsort(dim=1, stable=True)[:, :k]
    relevant = (labels[order] == labels[rows, None]).double()
    others = (labels == labels[rows, None]).sum(1) - 1
    rank = torch.arange(1, k + 1, dtype=torch.float64, device=x.device)
    total = (relevant * relevant.cumsum(1) / rank).sum(1)
    norm = others.clamp(max=k) if divide_by == "relevant" else relevant.sum(1)
    return (total / norm.clamp(min=1))[others > 0]
