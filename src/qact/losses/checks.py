"""What every loss of embeddings asks of its input, and in which precision it computes."""

from __future__ import annotations

import torch
from torch import Tensor

from qact import checks


def embedded(embeddings: Tensor, labels: Tensor, *, finite: bool = True) -> tuple[Tensor, Tensor]:
    """Return embeddings in float32 (float64 stays) and int64 labels, or say what is wrong.

    ``finite`` refuses NaN and infinity, of which no distance can be taken.
    """
    checks.tensors(embeddings=embeddings, labels=labels)
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(
            f"embeddings must be (N, D) with N, D >= 1, got {tuple(embeddings.shape)}; "
            "flatten or pool feature maps first"
        )
    if not embeddings.is_floating_point():
        raise TypeError(f"embeddings must be floating, got {embeddings.dtype}")
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"labels must be ({len(embeddings)},), got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    # A sum is finite ten times sooner than each of its terms has been looked at.
    sure = not finite or bool(torch.isfinite(embeddings.sum()))
    if not sure and not torch.isfinite(embeddings).all():
        bad = int((~torch.isfinite(embeddings)).any(1).sum())
        raise ValueError(f"embeddings must be finite, {bad} of {len(embeddings)} are not")
    wide = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    return wide, labels.long()
