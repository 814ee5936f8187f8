"""Last layers that are their own loss: they learn a vector for each class.

``head(embeddings)`` gives logits, for prediction; ``head(embeddings, target)`` gives the loss. Put
one in the place of a network's last linear layer. :mod:`qact.losses.angular` has those of cosines,
:mod:`qact.losses.sampled` the one for very many classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from qact import checks
from qact.losses.checks import embedded
from qact.losses.registry import register
from qact.losses.rows import REDUCTIONS, kept_rows
from qact.losses.softmax import comp_sum_loss
from qact.vectors import lengths


class Head(nn.Module):
    """A linear classifier without bias, trained by cross-entropy; the base of all heads.

    Args:
        embedding_size: D.
        classes: C.
        class_weight: (C,), as in :func:`qact.losses.rowwise`.
        ignore_index: rows with this target count for nothing.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Attributes:
        weight: (C, D), a vector for each class.

    Raises:
        ValueError: ``ignore_index``, ``reduction``, ``classes`` or ``embedding_size`` is not as
            described; shapes or labels do not fit the classes.

    Example:
        >>> head = Head(3, 5)
        >>> head(torch.zeros(1, 3)), head(torch.zeros(1, 3), torch.tensor([4])).item()  # log 5
        (tensor([[0., 0., 0., 0., 0.]], grad_fn=<...>), 1.609...)
    """

    def __init__(
        self,
        embedding_size: int,
        classes: int,
        *,
        class_weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        shape = (
            checks.integer("classes", classes, 1),
            checks.integer("embedding_size", embedding_size, 1),
        )
        self.weight = nn.Parameter(torch.empty(shape))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as nn.Linear's
        self.register_buffer("class_weight", class_weight, persistent=False)
        self.ignore_index = checks.integer("ignore_index", ignore_index)
        self.reduction = checks.choice("reduction", reduction, REDUCTIONS)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.weight)

    @property
    def vectors(self) -> Tensor:
        """The class vectors in the dtype of the computation: float32, or float64."""
        return self.weight if self.weight.dtype == torch.float64 else self.weight.float()

    def forward(self, embeddings: Tensor, target: Tensor | None = None) -> Tensor:
        """Return logits (N, C) of embeddings (N, D), or with targets (N,) their loss."""
        with torch.autocast(embeddings.device.type, enabled=False):
            if target is None:
                return self.logits(embeddings.to(self.vectors.dtype)).to(self.weight.dtype)
            x, y = embedded(embeddings, target, finite=False)
            x = x.to(self.vectors.dtype)
            if x.shape[1] != self.weight.shape[1]:
                raise ValueError(
                    f"embeddings must be (N, {self.weight.shape[1]}), got {tuple(x.shape)}"
                )
            rows = kept_rows(y, self.classes, self.ignore_index)
            if rows is None:
                return self.loss(x, y)
            if not len(rows):
                return x.sum(1) * 0 if self.reduction == "none" else x[rows].sum()
            found = self.loss(x[rows], y[rows])
            whole = self.reduction != "none"
            return found if whole else found.new_zeros(len(x)).index_put((rows,), found)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return logits, (N, C)."""
        return linear(embeddings, self.vectors)

    def loss(self, embeddings: Tensor, target: Tensor) -> Tensor:
        """Return the loss of embeddings and targets that are classes."""
        return self._of(comp_sum_loss, self.logits(embeddings), target)

    def _of(self, function: Callable[..., Tensor], values: Tensor, target: Tensor) -> Tensor:
        weight = self.class_weight if isinstance(self.class_weight, Tensor) else None
        return function(values, target, weight=weight, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"{self.weight.shape[1]}, {self.classes}"


@register("noisy_softmax", paper="Chen, Deng and Du 2017, arXiv 1708.03769", of="head")
class NoisySoftmax(Head):
    """``z_y - alpha ||w_y|| ||x|| (1 - cos theta_y) |xi|``, ``xi ~ N(0, 1)``, in training alone.

    Noise that lowers the own logit, more so far from its class vector: the softmax saturates later.

    Args:
        embedding_size: D.
        classes: C.
        alpha: at least 0; 0 is cross-entropy.
        options: of :class:`Head`.

    Raises:
        ValueError: ``alpha`` is not as described; shapes or labels do not fit the classes.

    Example:
        >>> head = NoisySoftmax(2, 2).eval()  # without noise
        >>> _ = head.weight.data.copy_(torch.eye(2))
        >>> round(head(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).item(), 4)  # log(1 + e^-1)
        0.3133
    """

    def __init__(
        self, embedding_size: int, classes: int, *, alpha: float = 0.1, **options: Any
    ) -> None:
        super().__init__(embedding_size, classes, **options)
        self.alpha = checks.within("alpha", alpha, 0)

    def loss(self, embeddings: Tensor, target: Tensor) -> Tensor:
        """Return the loss of embeddings and targets that are classes."""
        logits = self.logits(embeddings)
        if self.training and self.alpha:
            own = self.vectors.index_select(0, target)
            gap = (lengths(own) * lengths(embeddings))[:, 0] - (own * embeddings).sum(1)
            noise = gap * torch.randn_like(gap).abs_().mul_(-self.alpha)
            logits = logits.scatter_add_(1, target[:, None], noise[:, None])
        return self._of(comp_sum_loss, logits, target)


@register("large_dropout", paper="Zhang and Bottou 2024, arXiv 2403.00946", of="head")
class LargeDropout(Head):
    """Cross-entropy of a linear head whose embedding loses nine features in ten while it trains.

    Made for fine-tuning a network that is trained already.

    Args:
        embedding_size: D.
        classes: C.
        p: share of the features that are left out, in [0, 1); 0 is plain fine-tuning.
        options: of :class:`Head`.

    Raises:
        ValueError: ``p`` is not as described; shapes or labels do not fit the classes.

    Example:
        >>> head = LargeDropout(1, 2, p=0.5)  # the feature is doubled, or 0
        >>> _ = head.weight.data.copy_(torch.tensor([[1.0], [0.0]]))
        >>> loss = head(torch.ones(1, 1), torch.tensor([0])).item()
        >>> round(loss, 4) in (0.1269, 0.6931)  # log(1 + e^-2), log 2
        True
    """

    def __init__(
        self, embedding_size: int, classes: int, *, p: float = 0.9, **options: Any
    ) -> None:
        super().__init__(embedding_size, classes, **options)
        self.p = checks.within("p", p, 0, 1)

    def loss(self, embeddings: Tensor, target: Tensor) -> Tensor:
        """Return the loss of embeddings and targets that are classes."""
        return super().loss(dropout(embeddings, self.p, self.training), target)
