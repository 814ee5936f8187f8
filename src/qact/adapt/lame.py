"""LAME: Laplacian adjusted maximum-likelihood estimation of the outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qact import checks
from qact.adapt.features import features_of, head_of, watching
from qact.adapt.method import Method
from qact.adapt.registry import register
from qact.vectors import distances, unit_vectors, wide

MOST, CLOSE = 100, 1e-8  # steps, and the relative change of the objective that ends them
Affinity = Callable[[Tensor], Tensor]


@register("lame", paper="Boudiaf et al. 2022, arXiv 2201.05718, equation 7", learns="outputs")
class LAME(Method):
    """Neighbours in feature space get alike predictions; the model stays as it is.

    Iterates ``Y_i <- softmax(log p_i + sum_j w_ij Y_j)`` until the bound of equation 6 stands
    still, and returns the exponent, whose softmax is ``Y``. An affinity of zero gives the source's
    logits. The authors' code (github.com/fiveai/LAME) searches kNN, rbf and linear affinities with
    1, 3 and 5 neighbours, takes 5 as the best over all, and ends as here: at most 100 steps, or a
    relative change below 1e-8.

    Args:
        affinity: ``"knn"`` (the paper's choice), ``"rbf"``, ``"linear"``, or a function from
            normalised features (N, D) to weights (N, N).
        neighbours: of ``"knn"`` and ``"rbf"``; 5 in the paper.
        head: name of the linear layer whose input are the features; by default the last one.
        **options: of :class:`Method`.
    """

    needs_norms = False

    def __init__(
        self,
        model: nn.Module,
        *,
        affinity: str | Affinity = "knn",
        neighbours: int = 5,
        head: str | None = None,
        **options: bool,
    ) -> None:
        super().__init__(model, **options)
        if not callable(affinity):
            checks.choice("affinity", affinity, tuple(AFFINITIES))
        self.affinity = affinity
        self.neighbours = checks.integer("neighbours", neighbours, 1)
        self.head = head_of(self.model, head)

    @torch.no_grad()
    def forward_and_adapt(self, x: Tensor) -> Tensor:
        """Predict, then agree with the neighbours."""
        with watching(self.head) as seen:
            logits = self.logits(x)
        features = unit_vectors(features_of(self.head, seen, logits).flatten(1))
        if callable(self.affinity):
            weights = self.affinity(features)
        else:
            weights = AFFINITIES[self.affinity](features, self.neighbours)
        return agreed(wide(logits), weights).to(logits.dtype)


def agreed(logits: Tensor, weights: Tensor) -> Tensor:
    """``log p + W Y`` at the fixed point ``Y = softmax(log p + W Y)``, up to a constant per row.

    The bound of equation 6, ``sum_i Y_i (log Y_i - log p_i - (W Y)_i)``, is that of each step's
    ``Y`` with the neighbours of the step before; it ends the loop where it stands still.
    """
    log_p = logits.log_softmax(1)
    pair = weights @ log_p.exp()
    before: float | None = None  # no infinity: a change of infinity is never more than itself
    for _ in range(MOST):
        y = (log_p + pair).softmax(1)
        bound = float((y * (y.clamp_min(1e-20).log() - log_p - pair)).sum())
        pair = weights @ y
        if before is not None and abs(bound - before) <= CLOSE * abs(before):
            break
        before = bound
    return logits + pair


def _knn(features: Tensor, neighbours: int) -> Tensor:
    distance = distances(features, features).fill_diagonal_(torch.inf)
    nearest = distance.topk(min(neighbours, len(features) - 1), largest=False).indices
    return torch.zeros_like(distance).scatter_(1, nearest, 1.0)


def _rbf(features: Tensor, neighbours: int) -> Tensor:
    distance = distances(features, features)
    reach = distance.kthvalue(min(neighbours, len(features)), dim=1).values.mean()
    tiny = torch.finfo(distance.dtype).tiny
    return torch.exp(-(distance**2) / (2 * reach**2).clamp_min(tiny))


def _linear(features: Tensor, neighbours: int) -> Tensor:
    return features @ features.T


AFFINITIES = {"knn": _knn, "rbf": _rbf, "linear": _linear}
