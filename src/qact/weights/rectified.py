"""Weights that need not sum to 1: softpick, ReLU, ReLA, sigmoid."""

from __future__ import annotations

import torch
from torch import Tensor

from qact import checks
from qact.weights.masking import closed, counted, opened
from qact.weights.registry import mapped


@mapped(
    "softpick",
    paper="Zuhri et al. 2025, arXiv 2504.20966",
    formula="max(0, e^z_i - 1) / (sum_j abs(e^z_j - 1) + eps)",
    simplex=False,
    sparse=True,
    shift=False,
)
def softpick(
    scores: Tensor, dim: int = -1, mask: Tensor | None = None, eps: float = 1e-6
) -> Tensor:
    """``max(0, e^z_i - 1) / (sum_j abs(e^z_j - 1) + eps)``: sums to at most 1, no sink.

    Softpick (arXiv 2504.20966). Computed with ``m = max z`` as ``e^(z - m) - e^(-m)`` in both
    places, so that large scores are finite; ``eps`` is scaled alike.

    Example:
        >>> softpick(torch.log(torch.tensor([2.0, 1.0, 0.5])), eps=0)
        tensor([0.6667, 0.0000, 0.0000])
    """
    eps = checks.within("eps", eps, 0)
    z, keep = opened(scores, dim, mask)
    m = z.detach().masked_fill(~keep, -torch.inf).amax(dim, keepdim=True).clamp_min(0)
    # e^z - 1 in units of e^m; near 0 by expm1, else digits cancel.
    raised = torch.where(
        z.abs() < 1, torch.expm1(z.clamp(-1, 1)) * (-m).exp(), torch.exp(z - m) - torch.exp(-m)
    ).masked_fill(~keep, 0.0)
    total = raised.abs().sum(dim, keepdim=True) + eps * torch.exp(-m)
    return closed(raised.clamp_min(0) / torch.where(total > 0, total, 1.0), keep, scores)


@mapped(
    "relu",
    paper="Wortsman et al. 2023, arXiv 2309.08586",
    formula="max(0, z)/L, L kept scores",
    simplex=False,
    sparse=True,
    shift=False,
)
def relu(scores: Tensor, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    """``max(0, z)/L`` with ``L`` the scores of a row that are not masked (arXiv 2309.08586).

    Example:
        >>> relu(torch.tensor([1.0, -1.0]))
        tensor([0.5000, 0.0000])
    """
    z, keep = opened(scores, dim, mask)
    return closed(z.clamp_min(0) / counted(keep, dim, z), keep, scores)


@mapped(
    "rela",
    paper="Zhang et al. 2021, arXiv 2104.07012",
    formula="max(0, z)",
    simplex=False,
    sparse=True,
    shift=False,
)
def rela(scores: Tensor, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    """``max(0, z)``, not normalised: ReLA (arXiv 2104.07012), whose values are normalised instead.

    The RMSNorm of the output belongs to the attention. It is also the key-value memory
    ``max(0, x K^T) V`` (Shen et al. 2023, arXiv 2302.06461), and the scores of ReLU as a classifier
    (Agarap 2018, arXiv 1803.08375).

    Example:
        >>> rela(torch.tensor([1.0, -1.0]))
        tensor([1., 0.])
    """
    z, keep = opened(scores, dim, mask)
    return closed(z.clamp_min(0), keep, scores)


@mapped(
    "sigmoid",
    paper="Ramapuram et al. 2024, arXiv 2409.04431",
    formula="sigmoid(z + b), b = -log n",
    simplex=False,
    shift=False,
)
def sigmoid(
    scores: Tensor, dim: int = -1, mask: Tensor | None = None, b: float | Tensor | None = None
) -> Tensor:
    """``sigmoid(z + b)``: keys do not compete (arXiv 2409.04431).

    Args:
        scores: see :func:`qact.weights.entmax`, as ``dim`` and ``mask``.
        b: None is ``-log n`` with ``n`` the scores of a row that are not masked: at zero scores the
            weights are ``1/(1 + n)``.

    Example:
        >>> sigmoid(torch.zeros(9))[0]
        tensor(0.1000)
    """
    z, keep = opened(scores, dim, mask)
    shift = -counted(keep, dim, z).log() if b is None else b
    return closed(torch.sigmoid(z + shift), keep, scores)
