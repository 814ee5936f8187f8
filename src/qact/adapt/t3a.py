"""T3A: test-time template adjustment of the last layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from qact import checks
from qact.adapt.entropy import entropy
from qact.adapt.features import features_of, head_of, watching
from qact.adapt.method import Method
from qact.adapt.registry import register
from qact.vectors import unit_vectors, wide, widest


@register("t3a", paper="Iwasawa, Matsuo 2021, NeurIPS, equations 3 to 6", learns="outputs")
class T3A(Method):
    """Class templates are sums of normalised features that were predicted as the class.

    Supports start as the rows of the last layer. Every sample joins the supports of its predicted
    class, of which the ``filter_k`` of lowest entropy stay; logits are ``z . c_k / |c_k|``. The
    rest of the model is frozen. The authors' code (github.com/matsuolab/T3A) has no default: it
    searches 1, 5, 20, 50, 100 and -1, where its -1 drops the least sure support of each class.

    Args:
        filter_k: supports per class; -1 keeps all (as a sum, so memory does not grow).
        head: name of the last linear layer; by default the last one.
        **options: of :class:`Method`.
    """

    needs_norms = False

    def __init__(
        self, model: nn.Module, *, filter_k: int = 100, head: str | None = None, **options: bool
    ) -> None:
        super().__init__(model, **options)
        self.filter_k = checks.integer("filter_k", filter_k, -1)
        if self.filter_k == 0:
            raise ValueError("filter_k=0 would leave no support; choose -1 for all")
        self.head = head_of(self.model, head)

    def begin(self) -> None:
        """The rows of the last layer are the first supports."""
        rows = wide(self.head.weight.detach())
        self.templates = rows.new_zeros(self.head.out_features, rows.shape[1])
        self.supports, self.labels = rows[:0], torch.empty(0, dtype=torch.long, device=rows.device)
        self.entropies = rows[:0, 0]
        bias = None if self.head.bias is None else widest(self.head.bias)
        self._join(rows, linear(widest(rows), widest(rows), bias))  # as products, float32 overflows

    @torch.no_grad()
    def forward_and_adapt(self, x: Tensor) -> Tensor:
        """The batch joins the supports, then is measured by the templates."""
        with watching(self.head) as seen:
            logits = self.logits(x)
        features = features_of(self.head, seen, logits)
        if features.dim() != 2:
            raise ValueError(f"{self.head} was given {tuple(features.shape)}; expected (N, D)")
        self._join(features, wide(logits))
        return (features @ unit_vectors(self.templates).T).to(logits.dtype)

    def _join(self, features: Tensor, logits: Tensor) -> None:
        label, unit = logits.argmax(1), unit_vectors(features)
        if self.filter_k < 0:
            self.templates.index_add_(0, label, unit)
            return
        self.supports = torch.cat([self.supports, unit])
        self.labels = torch.cat([self.labels, label])
        self.entropies = torch.cat([self.entropies, entropy(logits).to(self.entropies)])
        kept = torch.cat([self._surest(c) for c in range(self.head.out_features)])
        self.supports, self.labels = self.supports[kept], self.labels[kept]
        self.entropies = self.entropies[kept]
        self.templates.zero_().index_add_(0, self.labels, self.supports)

    def _surest(self, label: int) -> Tensor:
        """Indices of the supports of lowest entropy of a class."""
        mine = (self.labels == label).nonzero()[:, 0]
        return mine[self.entropies[mine].argsort(stable=True)[: self.filter_k]]
