"""A head for very many classes: each step looks at those of the batch and a share of the others."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from qact import checks
from qact.losses.heads import Head
from qact.losses.registry import register
from qact.losses.softmax import comp_sum_loss
from qact.vectors import unit_rows


@register(
    "sampled_softmax",
    paper="An et al. 2021, arXiv 2010.05222; Ruiz et al. 2018, arXiv 1802.04220",
    of="head",
)
class SampledSoftmax(Head):
    """Cross-entropy over the classes of the batch and a random share of the others.

    Partial FC as it stands. With ``unbiased``, what is drawn also stands for what is not: the sum
    over classes in the denominator is right on average (augment-and-reduce for the softmax, its
    bound at the best value of its parameter). Classes that are not drawn have zero gradient.
    At rate 1, and in evaluation, it is the full loss.

    Args:
        embedding_size: D.
        classes: C.
        rate: share of the classes, in (0, 1]; those of the batch are always among them.
        unbiased: whether drawn negatives are weighted by one over their share.
        margin: of CosFace, if ``scale`` is given.
        scale: of the cosines; None for a linear layer.
        generator: source of the choice; torch's global one if None.
        options: of :class:`Head`.

    Raises:
        ValueError: ``rate``, ``unbiased``, ``margin`` or ``scale`` is not as described; shapes or
            labels do not fit the classes.
    """

    def __init__(
        self,
        embedding_size: int,
        classes: int,
        *,
        rate: float = 0.1,
        unbiased: bool = False,
        margin: float = 0.0,
        scale: float | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__(embedding_size, classes, **options)
        self.rate = checks.number("rate", rate, "in (0, 1]", 0, 1)
        self.unbiased = checks.flag("unbiased", unbiased)
        self.margin = checks.within("margin", margin, 0)
        if margin and scale is None:
            raise ValueError(f"margin={margin!r} is one of cosines; it needs a scale too")
        self.scale = scale if scale is None else checks.number("scale", scale, "positive", 0)
        self.generator = generator

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return logits of all classes, (N, C)."""
        return self._products(embeddings, self.vectors)

    def loss(self, embeddings: Tensor, target: Tensor) -> Tensor:
        """Return the loss of embeddings and targets that are classes."""
        class_weight = self.class_weight if isinstance(self.class_weight, Tensor) else None
        if self.rate == 1 or not self.training:
            logits, place = self.logits(embeddings), target
        else:
            some, correction = self._drawn(target)
            logits = self._products(embeddings, self.vectors[some])
            logits = logits.add_(correction) if self.unbiased else logits
            place = torch.searchsorted(some, target)
            class_weight = class_weight if class_weight is None else class_weight[some]
        if self.margin and self.scale is not None:
            lower = logits.new_full((len(place), 1), -self.margin * self.scale)
            logits = logits.scatter_add_(1, place[:, None], lower)
        return comp_sum_loss(logits, place, weight=class_weight, reduction=self.reduction)

    def _products(self, embeddings: Tensor, weight: Tensor) -> Tensor:
        if self.scale is None:
            return linear(embeddings, weight)
        return linear(unit_rows(embeddings) * self.scale, unit_rows(weight))

    def _drawn(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Classes, in order, and the logarithm of how many each of them stands for."""
        own = target.unique()
        rest = self.classes - len(own)
        drawn = min(rest, max(0, math.ceil(self.rate * self.classes) - len(own)))
        device = target.device if self.generator is None else self.generator.device
        order = torch.rand(
            self.classes, generator=self.generator, device=device, dtype=torch.float32
        ).to(target.device)
        some = order.index_fill_(0, own, 2.0).topk(len(own) + drawn)[1].sort()[0]
        share = math.log(rest / drawn) if drawn else 0.0
        correction = torch.full_like(some, share, dtype=torch.float32)
        return some, correction.index_fill_(0, torch.searchsorted(some, own), 0.0)
