"""Rank weights: a score by its rank in its row, a logit by its rank in the context of its class."""

from __future__ import annotations

import torch
from torch import Tensor

from qact import _compat, checks
from qact.context import Context
from qact.functional import quantile_activation
from qact.kernels import row_rank as kernels
from qact.kernels.constant import exporting
from qact.nn.layer import QAct
from qact.weights.masking import closed, counted, opened, shares, unscaled
from qact.weights.module import Weights
from qact.weights.registry import mapped, register


@mapped(
    "rank",
    paper="this package; ranks as in Challa et al. 2024, arXiv 2405.11573",
    formula="r_i^power / sum_j r_j^power, r_i the share of scores below z_i, ties by half",
    scale=True,
    temperature="power",
)
def rank(
    scores: Tensor,
    dim: int = -1,
    mask: Tensor | None = None,
    power: float = 4.0,
    smooth: bool = False,
) -> Tensor:
    """``r_i^power / sum_j r_j^power`` with ``r_i = (#{z_j < z_i} + #{z_j = z_i}/2) / n``.

    Weights by rank alone: any increasing function of a row's scores has the same weights, so that
    neither shift nor scale nor an outlier moves them. The largest of ``n`` has about ``(power +
    1)/n``. A rank is a step; its gradient is that of ``Phi((z - mean)/std)``, the rank in a normal
    row, mean and spread included. ``smooth`` takes this for the value too.

    Args:
        scores: see :func:`qact.weights.entmax`, as ``dim`` and ``mask``.
        power: positive; larger is sharper.
        smooth: the normal rank also forward; it is invariant to shift and scale alone.

    Example:
        >>> rank(torch.tensor([1.0, 50.0, 2.0]), power=1)
        tensor([0.1111, 0.5556, 0.3333])
    """
    checks.number("power", power, "a positive number", 0)
    z, keep = opened(scores, dim, mask)
    r = normal_rank(z, keep, dim)
    if not checks.flag("smooth", smooth):
        r = row_rank(z.detach(), keep, dim) + (r - r.detach())
    return closed(shares(r.clamp_min(1e-9) ** power, keep, dim), keep, scores)


def row_rank(z: Tensor, keep: Tensor, dim: int = -1) -> Tensor:
    """``(#{z_j < z_i} + #{z_j = z_i}/2) / n`` over what is kept of a row, in (0, 1).

    Example:
        >>> row_rank(torch.tensor([3.0, 1.0, 3.0]), torch.ones(3, dtype=torch.bool))
        tensor([0.6667, 0.1667, 0.6667])
    """
    rows = z.masked_fill(~keep, torch.inf).movedim(dim, -1)
    if exporting():  # a runtime has no search, and a row of attention is short
        ranks = kernels.by_pairs(rows)
    elif _compat.transforming():
        ranks = kernels.by_sorting(rows.contiguous())
    else:
        ranks = torch.ops.qact.row_rank(rows)
    return ranks.movedim(-1, dim) / counted(keep, dim, z)


def normal_rank(z: Tensor, keep: Tensor, dim: int = -1) -> Tensor:
    """``Phi((z - mean)/std)`` over what is kept of a row; 1/2 in a row of equal scores."""
    z, n = unscaled(z, dim), counted(keep, dim, z)
    centred = (z - z.sum(dim, keepdim=True) / n).masked_fill(~keep, 0.0)
    variance = centred.square().sum(dim, keepdim=True) / n
    return torch.special.ndtr(centred / torch.where(variance > 0, variance, 1.0).sqrt())


@register(
    "context_rank",
    paper="this package; ranks as in Challa et al. 2024, arXiv 2405.11573, eq. 7",
    formula="r_c^power / sum_k r_k^power, r_c = F_c(z_c) in the stored context of class c",
    shift=False,
    ordered=False,
    needs=("num_classes",),
)
class ContextRank(Weights):
    """Each logit by its rank in the stored context of its class: ``r_c^power / sum_k r_k^power``.

    ``r_c = F_c(z_c)`` with ``F_c`` the step rank (and the gradient of its smooth twin) in what the
    logit of class ``c`` was on source data.
    A head whose logits have drifted by any increasing function per class has, once its context was
    read anew, the weights it had before. In training the ranks are those of the batch, and the
    context follows; in ``eval()`` each sample is mapped alone.

    Args:
        num_classes: size of the scores at ``dim``.
        dim: of the classes.
        power: positive; larger is sharper.
        bins: resolution of the contexts.

    Raises:
        RuntimeError: in ``eval()``, before the context has seen data.

    Example:
        >>> head = ContextRank(3, dim=1)
        >>> _ = head(torch.randn(500, 3))
        >>> head.eval()(torch.tensor([[9.0, 0.0, -9.0]])).argmax(1)
        tensor([0])
    """

    def __init__(
        self, num_classes: int, dim: int = -1, power: float = 4.0, bins: int = 512
    ) -> None:
        super().__init__(dim)
        self.power = checks.number("power", power, "a positive number", 0)
        self.context = Context(num_classes, bins)
        layer = QAct(
            num_classes,
            dim=dim,
            levels="uniform",
            grounded=False,
            smooth=False,
            bandwidth="scott",
            affine=False,
            bins=bins,
        )
        layer.context = self.context
        self._exported = (layer.eval(),)  # it knows how a graph holds a context; no child of ours

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weights, like the scores; a masked class takes no part."""
        z, keep = opened(scores, self.dim, mask)
        z = torch.where(keep, z, opened(scores, self.dim)[0])  # a context counts what is masked too
        if exporting() and not self.training:
            r = self._exported[0](z)
        else:
            stored = None if self.training else self.context
            r = quantile_activation(z, dim=self.dim, context=stored, grounded=False, smooth=False)
        if self.training:
            self.context.add(z.detach(), dim=self.dim)
        return closed(shares(r.clamp(1e-9, 1.0) ** self.power, keep, self.dim), keep, scores)
