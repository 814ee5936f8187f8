"""Cross-batch memory: a batch is compared with the embeddings of earlier ones too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.losses.checks import embedded


class CrossBatchMemory(nn.Module):
    """Take a loss of embeddings against the last ``size`` ones, of this batch and those before it.

    Wang et al. 2020, arXiv 1912.06798. A sample is not compared with itself. Remembered embeddings
    have no gradient.

    Args:
        loss: takes ``references``, ``reference_labels`` and ``itself``, as
            :class:`qact.losses.TripletLoss` does.
        embedding_size: D.
        size: of the memory, at least that of a batch.

    Raises:
        ValueError: ``size`` or ``embedding_size`` is not as described; shapes do not fit.

    Example:
        >>> from qact.losses import TripletLoss
        >>> loss = CrossBatchMemory(TripletLoss(miner="all"), embedding_size=3, size=32)
        >>> for _ in range(3):
        ...     value = loss(torch.randn(8, 3), torch.arange(8) % 2)
        >>> value.shape, int(loss.count)
        (torch.Size([]), 24)
    """

    embeddings: Tensor
    labels: Tensor
    count: Tensor

    def __init__(self, loss: nn.Module, embedding_size: int, size: int = 1024) -> None:
        super().__init__()
        self.loss = loss
        shape = checks.integer("size", size, 1), checks.integer("embedding_size", embedding_size, 1)
        self.register_buffer("embeddings", torch.zeros(shape))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # that ever came in

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Remember a batch and return its loss."""
        x, y = embedded(embeddings, labels)
        size = len(self.labels)
        if len(x) > size or x.shape[1] != self.embeddings.shape[1]:
            raise ValueError(
                f"embeddings must be (N, {self.embeddings.shape[1]}) with N <= {size}, "
                f"got {tuple(x.shape)}"
            )
        before = int(self.count)
        place = (before + torch.arange(len(x), device=x.device)) % size
        self.embeddings[place] = x.detach().to(self.embeddings.dtype)
        self.labels[place] = y
        self.count.fill_(before + len(x))
        held = min(size, before + len(x))
        known: dict[str, Any] = {
            "references": self.embeddings[:held].to(x.dtype).clone(),
            "reference_labels": self.labels[:held].clone(),
            "itself": place,
        }
        found: Tensor = self.loss(x, y, **known)
        return found

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"size={len(self.labels)}"
