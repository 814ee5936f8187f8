"""Cross-entropy with a penalty for miscalibration in the batch, and one for lengths of filters.

``r_i = max_k p_ik`` is the confidence of sample ``i``, and ``h_i`` is 1 where its class is right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qact import checks
from qact.losses.registry import logit_loss, register
from qact.losses.rows import first_largest, last, parts, selected, softmax_at

_WIDTH = 0.4  # of the kernel, as in the paper's experiments


def _probabilities(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cross-entropy, ``r`` and ``h`` of the rows that count, and ``mean_i p_ik - [y_i = k]``."""
    some = selected(logits, target, weight, ignore_index, reduction)
    z, y = some.logits, some.target
    if not len(y):
        return some.reduced(z.sum(1)), z.sum(1), z.sum(1), z.sum(0)
    log_p, total, first = _Softmax.apply(z, y)
    hit = (first == y).to(log_p.dtype)
    seen = torch.bincount(y, minlength=z.shape[1])
    return some.reduced(-log_p[:, 0]), log_p[:, 1].exp(), hit, (total - seen) / len(y)


class _Softmax(torch.autograd.Function):
    """``log p`` (N, 2) of the target and of the largest, ``sum_i p_ik`` (C,), and the largest (N,).

    The penalties are functions of these; what is kept for all of them is ``p``.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wide = logits.dtype if logits.dtype == torch.float64 else torch.float32
        p = logits.new_empty(logits.shape, dtype=wide)
        at = target[:, None].repeat(1, 2)
        log_p = p.new_empty(at.shape)
        total = p.new_zeros(p.shape[1])
        with torch.autocast(logits.device.type, enabled=False):
            for some in parts(logits):
                z = logits[some].to(wide)
                at[some, 1:] = first_largest(z)[1]
                p[some], log_p[some] = softmax_at(z, at[some])
                total += p[some].sum(0)
        ctx.save_for_backward(logits, at)
        ctx.p, ctx.wide = p, wide
        ctx.set_materialize_grads(False)
        first = at[:, 1]
        ctx.mark_non_differentiable(first)
        return log_p, total, first

    @staticmethod
    def backward(
        ctx: Any, by_log: Tensor | None, by_total: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor, None]:
        (logits, at), (gradient, ctx.p) = ctx.saved_tensors, (ctx.p, None)
        with torch.no_grad():
            by_log = torch.zeros_like(at, dtype=ctx.wide) if by_log is None else by_log
            if gradient is None:  # it was given away: a second walk takes it anew
                z = logits.to(ctx.wide)
                gradient = torch.cat([softmax_at(z[some], at[some])[0] for some in parts(z)])
            for some in parts(gradient):
                # Of sum_k b_k log p_k: b - (sum b) p; of sum_k t_k p_k: p (t - t p).
                p, pull = gradient[some], by_log[some].sum(1, keepdim=True)
                if by_total is None:
                    p.mul_(-pull)
                else:
                    p.mul_(by_total - ((p @ by_total)[:, None] + pull))
            gradient = gradient.scatter_add_(1, at, by_log).to(logits.dtype)
        return (last(gradient, logits) if torch.is_grad_enabled() else gradient), None


@logit_loss("mmce", paper="Kumar, Sarawagi and Jain 2018, Proc. ICML")
def mmce_loss(
    logits: Tensor,
    target: Tensor,
    *,
    strength: float = 2.0,
    **reduced: Any,
) -> Tensor:
    """Return ``-log p_y + s sqrt(M)``, ``M = (1/N^2) sum_ij (h_i - r_i)(h_j - r_j) k(r_i, r_j)``.

    The maximum mean calibration error: 0 only where confidence is right at every level of it.
    ``k(a, b) = exp(-|a - b| / 0.4)``; sorted by confidence, the double sum is one pass.

    Args:
        logits: (N, C).
        target: (N,) int64.
        strength: ``s``, at least 0.
        reduced: ``ignore_index``, and ``weight`` and ``reduction`` of the cross-entropy; see
            :func:`qact.losses.rowwise`.

    Example:
        >>> mmce_loss(torch.zeros(1, 2), torch.tensor([0]), strength=1.0)  # log 2 + 1/2
        tensor(1.1931)
    """
    checks.within("strength", strength, 0)
    plain, r, h, _ = _probabilities(logits, target, **reduced)
    return plain + strength * mmce(r, h).clamp_min(torch.finfo(r.dtype).tiny).sqrt()


def mmce(confidence: Tensor, hit: Tensor) -> Tensor:
    """Return the squared maximum mean calibration error of confidences and hits, both (N,).

    Example:
        >>> mmce(torch.tensor([0.75, 0.75]), torch.tensor([1.0, 0.0]))  # (-1/2)^2 / 4
        tensor(0.0625)
    """
    found: Tensor = _MMCE.apply(confidence, hit)
    return found


class _MMCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, confidence: Tensor, hit: Tensor) -> Tensor:
        # Sorted by r, K g is one pass from below and one from above: exp(-(r_i - r_j) / w) is a
        # product of factors up to e^2.5, so nothing overflows.
        r, order = confidence.sort()
        gap, up = hit[order] - r, (r / _WIDTH).exp()
        low, high = gap * up, gap / up
        below = (low.cumsum(0) - low) / up
        above = (high.sum() - high.cumsum(0)) * up
        around, count = gap + below + above, max(1, len(r))
        # d/dr_i of sum_ij g_i g_j k(r_i, r_j), k's slope being -sign(r_i - r_j) k / w.
        slope = around + gap * (below - above) / _WIDTH
        ctx.save_for_backward(torch.empty_like(slope).scatter_(0, order, slope * (-2 / count**2)))
        return (gap @ around) / count**2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * upstream, None


@logit_loss("dca", paper="Liang et al. 2020, arXiv 2009.04057")
def dca_loss(
    logits: Tensor,
    target: Tensor,
    *,
    strength: float = 1.0,
    **reduced: Any,
) -> Tensor:
    """Return ``-log p_y + s |mean_i h_i - mean_i r_i|``: accuracy against mean confidence.

    Args:
        logits: (N, C).
        target: (N,) int64.
        strength: ``s``, at least 0.
        reduced: ``ignore_index``, and ``weight`` and ``reduction`` of the cross-entropy; see
            :func:`qact.losses.rowwise`.

    Example:
        >>> dca_loss(torch.zeros(1, 2), torch.tensor([0]))  # log 2 + |1 - 1/2|
        tensor(1.1931)
    """
    checks.within("strength", strength, 0)
    plain, r, h, _ = _probabilities(logits, target, **reduced)
    return plain + strength * (h - r).sum().abs() / max(1, len(r))


@logit_loss("mdca", paper="Hebbalaguppe et al. 2022, arXiv 2203.13834")
def mdca_loss(
    logits: Tensor,
    target: Tensor,
    *,
    strength: float = 1.0,
    **reduced: Any,
) -> Tensor:
    """Return ``-log p_y + s mean_k |mean_i p_ik - mean_i [y_i = k]|``: every class's frequency.

    Args:
        logits: (N, C).
        target: (N,) int64.
        strength: ``s``, at least 0.
        reduced: ``ignore_index``, and ``weight`` and ``reduction`` of the cross-entropy; see
            :func:`qact.losses.rowwise`.

    Example:
        >>> mdca_loss(torch.zeros(1, 2), torch.tensor([0]))  # log 2 + 1/2
        tensor(1.1931)
    """
    checks.within("strength", strength, 0)
    plain, _, _, excess = _probabilities(logits, target, **reduced)
    return plain + strength * excess.abs().mean()


@register("norm_loss", paper="Georgiou et al. 2021, arXiv 2103.06583", of="weights")
class NormLoss(nn.Module):
    """``s sum_c (1 - ||w_c||)^2`` over the filters of all layers: a soft tie to unit length.

    0 only where every filter has length 1. It is added to another loss, in the place of weight
    decay.

    Args:
        strength: ``s``, at least 0.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> nn.init.constant_(layer.weight, 3.0).norm()
        tensor(4.2426, grad_fn=<...>)
        >>> NormLoss(strength=1.0)(layer)  # (1 - 4.2426)^2
        tensor(10.5147, grad_fn=<...>)
    """

    def __init__(self, strength: float = 0.01) -> None:
        super().__init__()
        self.strength = checks.within("strength", strength, 0)

    def forward(self, network: nn.Module) -> Tensor:
        """Return the loss of a network's weights of two and more dimensions."""
        weights = [w for w in network.parameters() if w.ndim > 1]
        if not weights:
            raise ValueError(f"{type(network).__name__} has no weights with filters")
        return self.strength * torch.stack([norm_loss(w) for w in weights]).sum()


def norm_loss(weight: Tensor) -> Tensor:
    """Return ``sum_c (1 - ||w_c||)^2`` over the first dimension of a weight.

    Example:
        >>> norm_loss(torch.tensor([[3.0, 4.0], [0.6, 0.8]]))
        tensor(16.)
    """
    return (1 - weight.flatten(1).norm(dim=1)).square().sum()
