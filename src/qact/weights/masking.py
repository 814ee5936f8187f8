"""What every map does before and after its formula: masks, precision, shares of what is kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qact import checks


def opened(scores: Tensor, dim: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The scores in float32 (float64 stays) with 0 where they are masked, and where they are not.

    A score of ``-inf`` is masked too: its weight and its gradient are exactly 0.

    Raises:
        TypeError: scores that are not floating, or a mask that is neither boolean nor floating.
        ValueError: no such ``dim``, nothing along it, or a mask of another shape.
    """
    z = asked(scores, dim, mask)
    keep = z != -torch.inf
    return z.masked_fill(~keep, 0.0), keep


def asked(scores: Tensor, dim: int, mask: Tensor | None) -> Tensor:
    """The scores in float32 (float64 stays), ``-inf`` where they are masked."""
    checks.tensors(scores=scores)
    if not scores.is_floating_point():
        raise TypeError(
            f"scores must be floating, got {scores.dtype}; scores.float() makes them so"
        )
    if not isinstance(dim, int) or not -scores.dim() <= dim < scores.dim():
        raise ValueError(f"dim={dim!r} is no dimension of scores of shape {tuple(scores.shape)}")
    if scores.shape[dim] == 0:
        raise ValueError(f"scores of shape {tuple(scores.shape)} have nothing along dim={dim}")
    z = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    if mask is None:
        return z
    fitting(mask, scores.shape)
    if mask.dtype == torch.bool:
        return z.masked_fill(~mask, -torch.inf)
    return z + mask.to(z.dtype)


def fitting(mask: Tensor, shape: Sequence[int]) -> None:
    """Refuse what is no mask of scores of that shape.

    Raises:
        TypeError: a mask that is neither boolean nor floating.
        ValueError: a mask of another shape.
    """
    checks.tensors(mask=mask)
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(f"mask must be boolean (True takes part) or additive, got {mask.dtype}")
    if mask.dim() > len(shape) or any(
        m not in (1, s) for m, s in zip(mask.shape[::-1], shape[::-1], strict=False)
    ):
        raise ValueError(
            f"mask of shape {tuple(mask.shape)} must broadcast to the scores' {tuple(shape)}"
        )


def closed(weights: Tensor, keep: Tensor, scores: Tensor) -> Tensor:
    """Weights of exactly 0 where the scores are masked, in the dtype of the scores."""
    return weights.masked_fill(~keep, 0.0).to(scores.dtype)


def unscaled(z: Tensor, dim: int) -> Tensor:
    """Rows divided by their largest absolute value, so that no square overflows or vanishes."""
    most = z.detach().abs().amax(dim, keepdim=True)
    return z / torch.where(most == 0, 1.0, most)


def shares(sizes: Tensor, keep: Tensor, dim: int) -> Tensor:
    """``s_i / sum_j s_j`` over what is kept; a row whose sizes are all 0 stays 0."""
    sizes = sizes.masked_fill(~keep, 0.0)
    return divided(sizes, sizes.sum(dim, keepdim=True))


def divided(sizes: Tensor, total: Tensor) -> Tensor:
    """``sizes / total``, and 0 where the total is 0."""
    return sizes / torch.where(total == 0, 1.0, total)


def exponential(z: Tensor, keep: Tensor, dim: int) -> Tensor:
    """softmax over what is kept; a row without anything gets numbers that :func:`closed` erases."""
    masked = ~keep & keep.any(dim, keepdim=True)
    return torch.softmax(z.masked_fill(masked, -torch.inf), dim)


def counted(keep: Tensor, dim: int, z: Tensor) -> Tensor:
    """How many scores of a row are kept, at least 1, in the dtype of ``z``."""
    return keep.sum(dim, keepdim=True).clamp_min(1).to(z.dtype)
