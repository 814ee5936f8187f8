"""The watershed loss (Challa, Danda and Najman 2024, arXiv 2402.08405).

As the Quantile Activation paper restates it (arXiv 2405.11573v1, appendix D): from seeds in the
batch labels are propagated to all samples, which gives ``yhat``. With ``S_l = {j : yhat_j = y_j =
l}``, the samples of class ``l`` that were reached correctly,

    loss = -(1/N) sum_i log( exp(-d_i,y_i) / sum_l exp(-d_il) )
    d_il = min_{j in S_l} ||x_i - x_j||

the softmax cross-entropy on minus the Euclidean distance to the nearest correct sample of each
class. Neither paper's code was published; where the text leaves room we took these readings:

- *A sample is not its own neighbour*: ``j != i`` in ``S_{y_i}``. Otherwise ``d_i,y_i`` is 0 for
  every correct sample and nothing pulls a class together.
- *Seeds are correct*: they belong to ``S_l``, as ``yhat = y`` holds for them.
- *Propagation* is the minimum spanning forest of the complete graph of distances
  (:mod:`qact.losses.forest`), and no gradient runs through it: labels are discrete.
- *A class without correct samples* is left out of the sum over ``l``. A sample whose own class has
  no other correct sample is left out of the mean; if all are, the loss is 0 with zero gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from qact.losses.checks import embedded
from qact.losses.distances import distances_to, squared_distances
from qact.losses.forest import propagate
from qact.losses.registry import register
from qact.losses.rows import first_place
from qact.losses.seeds import choose_seeds


def watershed_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    seeds: int | float | Tensor = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the watershed loss of a batch, a scalar.

    Args:
        embeddings: (N, D), floating; half precision is computed in float32.
        labels: (N,) integer.
        seeds: how many random samples of each class are seeds (an integer, or a share in (0, 1)),
            or a (N,) bool tensor that says which.
        generator: source of the random seeds.

    Returns:
        The loss, float32 (float64 for float64). The batches that the formula leaves open are said
        at the head of this module.

    Raises:
        ValueError: shapes or ``seeds`` are not as described, or an embedding is not finite.
        TypeError: embeddings are not floating or labels not integer.

    Example:
        >>> x = torch.tensor([[0.0], [0.5], [4.0], [4.5]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> watershed_loss(x, y).item() < watershed_loss(x, torch.tensor([0, 1, 0, 1])).item()
        True
    """
    x, y = embedded(embeddings, labels)
    classes, target = y.unique(return_inverse=True)
    with torch.no_grad():
        d = squared_distances(x.detach())  # their order is all that is asked for here
        chosen = _mask(seeds, y) if isinstance(seeds, Tensor) else None
        chosen = choose_seeds(y, seeds, generator=generator) if chosen is None else chosen  # type: ignore[arg-type]
        near, known = _nearest_correct(d, target, propagate(d, chosen), len(classes))
    reach = distances_to(x, near)
    if not torch.isfinite(reach).all():
        raise ValueError(f"embeddings are too large for their distances in {x.dtype}")
    logits = torch.where(known, -reach, -torch.inf)
    useful = known.gather(1, target[:, None])[:, 0]
    if not useful.any():
        return (x * 0).sum()
    return cross_entropy(logits[useful], target[useful])


@register("watershed", paper="Challa et al. 2024, arXiv 2402.08405")
class WatershedLoss(nn.Module):
    """:func:`watershed_loss` as a module.

    Example:
        >>> WatershedLoss(seeds=2)(torch.randn(8, 3), torch.arange(8) % 2).shape
        torch.Size([])
    """

    def __init__(self, seeds: int | float = 1, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.seeds = seeds
        self.generator = generator

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return watershed_loss(embeddings, labels, seeds=self.seeds, generator=self.generator)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"seeds={self.seeds}"


def _mask(seeds: Tensor, labels: Tensor) -> Tensor:
    if seeds.dtype != torch.bool or seeds.shape != labels.shape:
        raise ValueError(
            f"seeds must be bool {tuple(labels.shape)}, got {seeds.dtype} {tuple(seeds.shape)}"
        )
    return seeds


def _nearest_correct(
    d: Tensor, target: Tensor, seed: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """Per sample and class: the nearest other correct sample (first on ties), and if there is one.

    ``target`` counts the classes from 0; ``seed`` is the seed of each sample, -1 for none.
    """
    n = len(target)
    correct = (seed >= 0) & (target[seed] == target)
    d.fill_diagonal_(torch.inf)
    near = torch.zeros(n, classes, dtype=torch.int64, device=d.device)
    known = torch.zeros_like(near, dtype=torch.bool)
    members = correct.nonzero()[:, 0]
    members = members[target[members].argsort(stable=True)]
    size = torch.bincount(target[members], minlength=classes).tolist()
    for label, some in enumerate(members.split(size)):
        if len(some):
            columns = d[:, some]
            place = first_place(columns, columns.amin(1, keepdim=True))[:, 0]
            near[:, label], known[:, label] = some[place], True
            if len(some) == 1:  # which has no other
                known[some[0], label] = False
    return near, known
