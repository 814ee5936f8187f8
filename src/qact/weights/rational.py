"""Shares of a positive function: StableMax, Taylor softmax, power softmax, softplus."""

from __future__ import annotations

import torch
from torch import Tensor

from qact import checks
from qact.weights.masking import closed, opened, shares, unscaled
from qact.weights.registry import mapped


@mapped(
    "stablemax",
    paper="Prieto et al. 2025, arXiv 2501.04697",
    formula="s(z_i) / sum_j s(z_j), s = z + 1 above 0, 1/(1 - z) below",
    shift=False,
)
def stablemax(scores: Tensor, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    """``s(z_i) / sum_j s(z_j)`` with ``s(z) = z + 1`` for ``z >= 0`` and ``1/(1 - z)`` below.

    StableMax (arXiv 2501.04697): it grows like a line, so that the loss of a sure prediction does
    not round to 0. The authors compute its logarithm in float64.

    Example:
        >>> stablemax(torch.tensor([1.0, -1.0]))
        tensor([0.8000, 0.2000])
    """
    z, keep = opened(scores, dim, mask)
    up, down = z.clamp_min(0), z.clamp_max(0)  # each branch is finite where the other is taken
    return closed(shares(torch.where(z >= 0, up + 1, 1 / (1 - down)), keep, dim), keep, scores)


@mapped(
    "taylor",
    paper="Nauen et al. 2024, arXiv 2403.02920",
    formula="t(z_i) / sum_j t(z_j), t = 1 + z + z^2/2",
    shift=False,
    ordered=False,
)
def taylor(scores: Tensor, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    """``t(z_i) / sum_j t(z_j)`` with ``t(z) = 1 + z + z^2/2 >= 1/2``: not monotone below -1.

    Taylor softmax, as in TaylorShift (arXiv 2403.02920), whose linear form is
    :class:`qact.attention.TaylorShift`.

    Example:
        >>> taylor(torch.tensor([1.0, 0.0]))
        tensor([0.7143, 0.2857])
    """
    z, keep = opened(scores, dim, mask)
    most = (1 + z).detach().abs().amax(dim, keepdim=True).clamp_min(1)  # squares must not overflow
    sizes = 0.5 * (1 / most).square() + ((1 + z) / most).square() / 2
    return closed(shares(sizes, keep, dim), keep, scores)


@mapped(
    "power",
    paper="Zimerman et al. 2024, arXiv 2410.09457",
    formula="z_i^r / sum_j z_j^r, r even",
    shift=False,
    scale=True,
    ordered=False,
)
def power(scores: Tensor, dim: int = -1, mask: Tensor | None = None, r: int = 2) -> Tensor:
    """``z_i^r / sum_j z_j^r`` with an even ``r``: the order is that of ``abs(z)``.

    Power-softmax (arXiv 2410.09457), for encrypted inference. A row of zeros is uniform, the limit
    of equal scores. Rows are divided by their largest absolute value first, which changes nothing.

    Raises:
        ValueError: ``r`` is odd, or below 2.

    Example:
        >>> power(torch.tensor([1.0, 2.0, -3.0]))
        tensor([0.0714, 0.2857, 0.6429])
    """
    if checks.integer("r", r, 2) % 2:
        raise ValueError(f"r={r!r} must be even, else weights may be negative")
    z, keep = opened(scores, dim, mask)
    z = unscaled(z, dim)
    zero = (z == 0).all(dim, keepdim=True)
    return closed(shares(torch.where(zero, 1.0, z) ** r, keep, dim), keep, scores)


@mapped(
    "softplus",
    paper="Gao and Spratling 2025, arXiv 2501.13428",
    formula="log(1 + e^z_i) / sum_j log(1 + e^z_j)",
    shift=False,
)
def softplus(scores: Tensor, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    """``log(1 + e^z_i) / sum_j log(1 + e^z_j)``: finite for any finite scores, and the order kept.

    The positive map and the l1 norm of LSSA (arXiv 2501.13428), without its length-dependent scale.

    Example:
        >>> softplus(torch.tensor([0.0, 0.0]))
        tensor([0.5000, 0.5000])
    """
    z, keep = opened(scores, dim, mask)
    # Far below zero softplus is e^z: taken by the row's largest, the shares are not lost.
    most = z.detach().masked_fill(~keep, -torch.inf).amax(dim, keepdim=True)
    low = most < -40
    far, near = torch.where(low, z - most, 0.0), torch.where(low, 0.0, z)
    sizes = torch.where(low, far.exp(), torch.nn.functional.softplus(near))
    return closed(shares(sizes, keep, dim), keep, scores)
