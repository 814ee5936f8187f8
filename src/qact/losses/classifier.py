"""Classifiers of embeddings for inference: seeded watershed, nearest neighbour, prototypes.

All three answer with ``softmax(-distance to each class)`` and look at each sample alone:

- ``"nearest"``: the distance to the nearest stored sample of the class, as in the watershed loss
  (arXiv 2405.11573v1, appendix D).
- ``"prototype"``: the distance to the mean of the class (Snell et al. 2017, arXiv 1703.05175, eq.
  2, with the plain Euclidean distance instead of the squared one).
- ``"watershed"``: the pass value. With ``P_jl`` the least, over all paths in the stored samples
  from ``j`` to a seed of class ``l``, of the largest step, a new sample has ``P_l(x) = min_j
  max(||x - x_j||, P_jl)``, divided by the standard deviation of ``P``. It is averaged over random
  choices of seeds, each weighted by its accuracy on the stored samples that were no seeds
  (Triplet-Watershed, arXiv 2103.09384, as its public code has it, without the random subsets of
  features, and with test samples outside the graph so that they cannot see each other). Where one
  long step bars the way to several classes their pass values are equal; then the class of the tree
  that the sample would hang on leads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qact import checks
from qact.losses.checks import embedded
from qact.losses.distances import distances_between, pairwise_distances
from qact.losses.forest import propagate
from qact.losses.seeds import choose_seeds

METHODS = ("nearest", "prototype", "watershed")
_CHUNK = 256  # queries at a time
_TIE = 1e-6  # logit by which the forest's own label leads among classes of equal pass value


class WatershedClassifier:
    """Classify embeddings by their distance to stored ones; see the head of this module.

    Args:
        method: ``"nearest"``, ``"prototype"`` or ``"watershed"``.
        seeds: for ``"watershed"``: samples of each class that keep their labels, an integer or a
            share in (0, 1). The others only carry paths.
        repeats: for ``"watershed"``: random choices of seeds that are averaged.
        generator: source of the random choices.

    Raises:
        ValueError: ``method`` or ``repeats`` is not as described.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [5.0], [6.0]])
        >>> model = WatershedClassifier("nearest").fit(x, torch.tensor([0, 0, 1, 1]))
        >>> model.predict(torch.tensor([[2.0], [4.0]]))
        tensor([0, 1])
    """

    def __init__(
        self,
        method: str = "watershed",
        *,
        seeds: int | float = 0.5,
        repeats: int = 20,
        generator: torch.Generator | None = None,
    ) -> None:
        self.method = checks.choice("method", method, METHODS)
        self.repeats = checks.integer("repeats", repeats, 1)
        self.seeds = seeds
        self.generator = generator

    @torch.no_grad()
    def fit(self, embeddings: Tensor, labels: Tensor) -> WatershedClassifier:
        """Store embeddings (N, D) with labels (N,) in 0..C-1; ``C`` is the largest label + 1.

        Raises:
            ValueError: shapes do not fit, a label is negative, or a class below ``C`` is missing.
        """
        x, y = embedded(embeddings.detach(), labels)
        present = y.unique()
        if present[0] < 0 or len(present) != int(present[-1]) + 1:
            raise ValueError(f"labels must be 0..C-1 with none missing, got {present.tolist()}")
        self.classes = len(present)
        self._x, self._y = x, y
        if self.method == "prototype":
            means = [x[y == c].double().mean(0) for c in range(self.classes)]
            self._x = torch.stack(means).to(x.dtype)
            self._y = present
        if self.method == "watershed":
            d = pairwise_distances(x)
            self._floods = [self._flood(d) for _ in range(self.repeats)]
        return self

    def _flood(self, d: Tensor) -> tuple[Tensor, Tensor, float, float]:
        """Return pass values (C, N), labels of the trees (N,), their deviation, and a weight."""
        seeds = choose_seeds(self._y, self.seeds, generator=self.generator)
        values = pass_values(d, torch.where(seeds, self._y, -1), self.classes)
        tree = self._y[propagate(d, seeds)]
        hits = (tree == self._y)[~seeds].double()
        weight = hits.mean().item() if len(hits) else 1.0
        # Sums of zeros are no scale, and a choice that is always wrong still has to count if alone.
        scale = float(values.double().std(correction=0)) or 1.0
        return values, tree, scale, max(weight, 1e-6)

    @torch.no_grad()
    def predict_proba(self, embeddings: Tensor) -> Tensor:
        """Return probabilities (M, C), float64, for embeddings (M, D).

        Raises:
            RuntimeError: nothing is stored yet.
            ValueError: the size of the embeddings is another, or one is not finite.
        """
        if not hasattr(self, "classes"):
            raise RuntimeError("nothing is stored yet; call fit(embeddings, labels) first")
        if embeddings.ndim != 2 or embeddings.shape[1] != self._x.shape[1]:
            raise ValueError(
                f"embeddings must be (M, {self._x.shape[1]}), got {tuple(embeddings.shape)}"
            )
        if not torch.isfinite(embeddings).all():
            raise ValueError("embeddings must be finite")
        queries = embeddings.detach().to(self._x.dtype)
        parts = [self._probabilities(part) for part in queries.split(_CHUNK)]
        return torch.cat(parts) if parts else self._x.new_empty(0, self.classes).double()

    def _probabilities(self, queries: Tensor) -> Tensor:
        d = distances_between(queries, self._x).double()
        if self.method != "watershed":
            columns = [d[:, self._y == c].amin(1) for c in range(self.classes)]
            return (-torch.stack(columns, 1)).softmax(1)
        total, weights = d.new_zeros(len(d), self.classes), 0.0
        for values, tree, scale, weight in self._floods:
            rows = values.double()
            reach = torch.stack([torch.maximum(d, row).amin(1) for row in rows], 1)
            # The least pass to any seed, not the nearest sample: behind the nearest the way to a
            # seed may be longer than past another neighbour, and then the sample hangs on that.
            hook = torch.maximum(d, rows.amin(0)).argmin(1)
            lead = torch.nn.functional.one_hot(tree[hook], self.classes)
            total += weight * (-reach / scale + _TIE * lead).softmax(1)
            weights += weight
        return total / weights

    def predict(self, embeddings: Tensor) -> Tensor:
        """Return the most probable class of each embedding, (M,) int64."""
        return self.predict_proba(embeddings).argmax(1)


def pass_values(d: Tensor, seeds: Tensor, classes: int) -> Tensor:
    """Return ``P_lj``, (C, N): the least largest step of any path from ``j`` to a seed of ``l``.

    Dijkstra's algorithm with the maximum in the place of the sum, for all classes side by side;
    ``inf`` for a class without seeds. ``d`` is (N, N), ``seeds`` (N,) the class or -1.

    Example:
        >>> x = torch.tensor([0.0, 1.0, 3.0, 3.5])
        >>> pass_values((x[:, None] - x).abs(), torch.tensor([0, -1, -1, 1]), 2)
        tensor([[0.0000, 1.0000, 2.0000, 2.0000],
                [2.0000, 2.0000, 0.5000, 0.0000]])
    """
    rows = torch.arange(classes, device=d.device)
    value = torch.where(seeds == rows[:, None], 0.0, torch.inf).to(d.dtype)
    open_ = value.clone()  # the value while a sample waits, inf once it is settled
    settled = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(len(d)):
        least, at = open_.min(1)
        settled[rows, at] = True
        value = torch.minimum(value, torch.maximum(least[:, None], d[at]))
        open_ = torch.where(settled, torch.inf, value)
    return value
