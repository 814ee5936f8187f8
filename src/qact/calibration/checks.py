"""What every metric asks of probabilities and labels."""

from __future__ import annotations

import torch
from torch import Tensor

from qact import checks


def checked(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``probs`` in float64 and ``labels`` in int64, or say what is wrong with them."""
    checks.tensors(probs=probs, labels=labels)
    if probs.ndim != 2 or probs.shape[0] < 1 or probs.shape[1] < 2:
        raise ValueError(
            f"probs must be (N, C) with N >= 1, C >= 2, got {tuple(probs.shape)}; a binary problem "
            "has two columns: torch.stack([1 - p, p], 1)"
        )
    if labels.shape != probs.shape[:1]:
        raise ValueError(f"labels must be ({probs.shape[0]},), got {tuple(labels.shape)}")
    if not probs.is_floating_point() or labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"need floating probs, integer labels; got {probs.dtype}, {labels.dtype}")
    tolerance = probs.shape[1] * max(torch.finfo(probs.dtype).eps, 1e-6)
    wide, y = probs.detach().double(), labels.detach().long()
    checks.unit("probs", wide, tolerance)
    worst = (wide.sum(1) - 1).abs().max().item()
    if worst > tolerance:
        raise ValueError(f"rows of probs must sum to 1, one is off by {worst:.3g} (logits?)")
    if y.min() < 0 or y.max() >= probs.shape[1]:
        raise ValueError(
            f"labels must be 0..{probs.shape[1] - 1}, got {int(y.min())}..{int(y.max())}"
        )
    return wide, y


def checked_pairs(confidence: Tensor, hit: Tensor) -> tuple[Tensor, Tensor]:
    """Return confidences (N,) and hits (N,) in float64, or say what is wrong with them."""
    checks.tensors(confidence=confidence, hit=hit)
    if confidence.ndim != 1 or len(confidence) < 1 or hit.shape != confidence.shape:
        raise ValueError(
            "confidence and hit must both be (N,) with N >= 1, got "
            f"{tuple(confidence.shape)} and {tuple(hit.shape)}"
        )
    if not confidence.is_floating_point():
        raise TypeError(f"confidence must be floating, got {confidence.dtype}")
    wide, hits = confidence.detach().double(), hit.detach().double()
    checks.unit("confidence", wide, 1e-6)
    if not ((hits == 0) | (hits == 1)).all():
        raise ValueError("hit must hold 0 and 1 (or False and True) only")
    return wide, hits
