"""Sparse maps onto the simplex: sparsemax and alpha-entmax, thresholds found without a sort."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qact import _compat
from qact.kernels import simplex
from qact.kernels.constant import exporting
from qact.weights.masking import asked
from qact.weights.module import PerHead
from qact.weights.registry import mapped, register
from qact.weights.softmax import softmax

# A power of 1 / (alpha - 1) multiplies the last digit: nearer to 1 float32 has too few of them,
LEAST = 2.0**-12
# and even nearer softmax is closer than float64.
SOFTMAX = 1e-8


@mapped(
    "entmax",
    paper="Peters et al. 2019, arXiv 1905.05702",
    formula="[(alpha - 1) z - tau]_+^(1/(alpha - 1)), tau so that the sum is 1",
    sparse=True,
)
def entmax(scores: Tensor, dim: int = -1, mask: Tensor | None = None, alpha: float = 1.5) -> Tensor:
    """``p = [(alpha - 1) z - tau]_+^(1/(alpha - 1))`` with ``tau`` so that ``sum p = 1``.

    Peters et al. 2019, arXiv 1905.05702. ``alpha = 1`` is softmax, 2 sparsemax; above 1 small
    scores have weights of exactly 0. ``tau`` is found by safeguarded Newton steps
    (:func:`qact.kernels.simplex.threshold`); only the weights are kept for the backward, which is
    ``J = Diag(s) - s s^T / sum s`` with ``s = p^(2 - alpha)`` on the support.

    Args:
        scores: any shape, floating; half precision is computed in float32.
        dim: along which the weights sum to 1.
        mask: boolean (True takes part) or additive.
        alpha: at least 1. Beyond some 4 scores that are nearly tied have thresholds closer than
            rounding: which of them share the weight is arbitrary then.

    Raises:
        ValueError, TypeError: an ``alpha`` below 1, a mask or dim that does not fit.

    Example:
        >>> entmax(torch.tensor([1.0, 0.0]))
        tensor([0.8307, 0.1693])
    """
    if not isinstance(alpha, (int, float)) or not 1 <= alpha < torch.inf:
        raise ValueError(f"alpha={alpha!r} must be a number of at least 1 (1 is softmax)")
    if alpha - 1 < SOFTMAX:
        return softmax(scores, dim, mask)
    z = asked(scores, dim, mask).movedim(dim, -1)
    if alpha - 1 < LEAST:
        z = z.double()
    if _portable():
        p = simplex.plain(z, float(alpha))
    else:
        p = torch.ops.qact.entmax(z, torch.tensor(float(alpha), dtype=z.dtype))
    return p.movedim(-1, dim).to(scores.dtype)


@mapped(
    "sparsemax",
    paper="Martins and Astudillo 2016, arXiv 1602.02068, alg. 1",
    formula="max(0, z - tau), tau so that the sum is 1",
    sparse=True,
)
def sparsemax(scores: Tensor, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    """``p = max(0, z - tau)``: the Euclidean projection onto the simplex (arXiv 1602.02068).

    One-hot from a gap of 1. Options and errors as in :func:`entmax`, which it is for ``alpha = 2``.

    Example:
        >>> sparsemax(torch.tensor([0.5, 0.0]))
        tensor([0.7500, 0.2500])
    """
    return entmax(scores, dim, mask, 2.0)


@mapped(
    "entmax15",
    paper="Peters et al. 2019, arXiv 1905.05702, alg. 2",
    formula="max(0, z/2 - tau)^2, tau so that the sum is 1",
    sparse=True,
)
def entmax15(scores: Tensor, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    """``p = max(0, z/2 - tau)^2``: :func:`entmax` for ``alpha = 1.5``. One-hot from a gap of 2.

    Example:
        >>> entmax15(torch.tensor([2.0, 0.0]))
        tensor([1., 0.])
    """
    return entmax(scores, dim, mask, 1.5)


@register(
    "entmax_learnt",
    paper="Correia et al. 2019, arXiv 1909.00015",
    formula="entmax with alpha = 1 + sigmoid(a), a learnt per head",
    parameters=("a",),
    sparse=True,
)
class LearntEntmax(PerHead):
    """:func:`entmax` with one learnt ``alpha = 1 + sigmoid(a)`` in (1, 2) per head.

    Correia et al. 2019, arXiv 1909.00015: each head finds how sparse it wants to be. The
    derivative by ``alpha`` is that of the threshold's defining equation.

    Args:
        heads: number of heads, see :class:`PerHead`.
        dim: along which the weights sum to 1.
        alpha: where it starts.

    Example:
        >>> LearntEntmax(alpha=1.5)(torch.tensor([1.0, 0.0]))
        tensor([0.8307, 0.1693], grad_fn=<...>)
    """

    def __init__(self, heads: int = 1, dim: int = -1, alpha: float = 1.5) -> None:
        super().__init__(heads, dim)
        if not 1 < alpha < 2:
            raise ValueError(f"alpha={alpha!r} must lie in (1, 2)")
        start = torch.logit(torch.tensor(alpha - 1.0))
        self.a = nn.Parameter(start.repeat(heads))

    @property
    def alpha(self) -> Tensor:
        """The present alpha of each head, at least 1 + 2^-12: that is near softmax."""
        rate = torch.sigmoid(self.a)
        return 1 + rate + (rate.clamp_min(LEAST) - rate).detach()

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weights, like the scores."""
        z = asked(scores, self.dim, mask)
        alpha = self.placed(self.alpha.to(z.dtype), scores)
        if self.heads == 1:  # it must not carry dimensions of its own
            alpha = alpha.reshape(())
        z = z.movedim(self.dim, -1)
        p = simplex.plain(z, alpha) if _portable() else torch.ops.qact.entmax(z, alpha)
        return p.movedim(-1, self.dim).to(scores.dtype)


def _portable() -> bool:
    """Whether operators of our own are not understood: in exported graphs, under torch.func."""
    return exporting() or _compat.transforming()
