"""Forms through a few landmarks: SOFT's Gaussian kernel and agent attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from qact import checks
from qact.attention.factored import Linear
from qact.attention.registry import register
from qact.vectors import wide

RIDGE = 0.01
NEWTON = 20
FAR = 1e4


def pooled(t: Tensor, count: int) -> Tensor:
    """``count`` landmarks (..., count, D): means over neighbouring tokens; all tokens if fewer."""
    if count >= t.shape[-2]:
        return t
    flat = t.transpose(-1, -2).flatten(0, -3)
    return F.adaptive_avg_pool1d(flat, count).transpose(-1, -2).unflatten(0, t.shape[:-2])


def gaussian(a: Tensor, b: Tensor) -> Tensor:
    """``exp(-|a - b|^2 / (2 sqrt D))``, (..., A, B)."""
    # Of differences: those of squares cancel, and overflow for large vectors.
    d = torch.cdist(wide(a), wide(b), compute_mode="donot_use_mm_for_euclid_dist")
    # The weight is 0 long before the bound, which keeps an infinite square out of the gradient.
    return torch.exp(-d.clamp_max(FAR).square() / (2 * math.sqrt(a.shape[-1]))).to(a.dtype)


def inverse(A: Tensor, steps: int = NEWTON) -> Tensor:
    """The inverse of ``P = A + 0.01 I`` by ``V <- 2V - V P V``, as the authors of SOFT code it.

    It starts at ``1.8 P / max_row_sum(A)^2``. The ridge shifts the result: it is not that of ``A``.
    """
    P = A + RIDGE * torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    V = 1.8 * P / A.abs().sum(-1).amax(-1)[..., None, None].square()
    for _ in range(steps):
        V = 2 * V - V @ P @ V
    return V


@register(
    "soft",
    paper="Lu et al. 2021, arXiv 2110.11945 (the authors' code)",
    formula="exp(-|q - k|^2 / (2 sqrt d)), q = k, through landmarks",
    linear=True,
    causal=False,
    rows=False,
)
class SOFT(Linear):
    """The Gaussian kernel ``exp(-|q_i - q_j|^2 / (2 sqrt D))`` for softmax, through landmarks.

    SOFT (arXiv 2110.11945): queries are keys too, the keys that are given are not read. With
    landmarks ``l`` the kernel is ``K(q, l) P^-1 K(l, q)``, see :func:`inverse`; with all tokens as
    landmarks it is the kernel itself, but for the ridge. The symmetric normalisation of the second
    paper (arXiv 2207.03341) is not here: its formula was not found.

    Args:
        num_heads, head_dim, causal: see :class:`qact.attention.Form`.
        landmarks: how many; means over neighbouring tokens.
        steps: of Newton's iteration.
    """

    causal_form = False
    divided = False

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        causal: bool = False,
        landmarks: int = 49,
        steps: int = NEWTON,
    ) -> None:
        super().__init__(num_heads, head_dim, causal)
        self.landmarks = checks.integer("landmarks", landmarks, 1)
        self.steps = checks.integer("steps", steps, 1)

    def factors(self, q: Tensor, k: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """The kernel of queries and landmarks, on one side times the inverse."""
        marks = pooled(q, self.landmarks)
        near = gaussian(q, marks)
        return near @ inverse(gaussian(marks, marks), self.steps), near


@register(
    "agent",
    paper="Han et al. 2023, arXiv 2312.08874",
    formula="softmax(q a^T) softmax(a k^T), a pooled queries",
    linear=True,
    causal=False,
)
class Agent(Linear):
    """``softmax(q a^T / sqrt D) softmax(a k^T / sqrt D) v`` with agents ``a``, the pooled queries.

    Agent attention (arXiv 2312.08874), without the biases and the depthwise convolution of the
    authors' network.

    Args:
        num_heads, head_dim, causal: see :class:`qact.attention.Form`.
        agents: how many.
    """

    causal_form = False
    divided = False

    def __init__(
        self, num_heads: int, head_dim: int, causal: bool = False, agents: int = 49
    ) -> None:
        super().__init__(num_heads, head_dim, causal)
        self.agents = checks.integer("agents", agents, 1)

    def factors(self, q: Tensor, k: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shares of the agents for queries, and of the keys for agents."""
        agents = pooled(q, self.agents) / math.sqrt(self.head_dim)
        gathered = agents @ k.transpose(-1, -2)
        if keep is not None:
            gathered = gathered.masked_fill(~keep.transpose(-1, -2), -torch.inf)
        return (q @ agents.transpose(-1, -2)).softmax(-1), gathered.softmax(-1).transpose(-1, -2)
