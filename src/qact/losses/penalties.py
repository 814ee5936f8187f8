"""Cross-entropy with a penalty for miscalibration in the batch, and one for lengths of filters.

``r_i = max_k p_ik`` is the confidence of sample ``i``, and ``h_i`` is 1 where its class is right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.losses.registry import logit_loss, register
from qact.losses.rows import first_largest, once, parts, selected, softmax_at
from qact.vectors import exact

_WIDTH = 0.4  # of the kernel, as in the paper's experiments


# (r, h, mean_i p_ik - [y_i = k]) -> (value, its slope by r (n,) or None, by the third (C,) or None)
Penalty = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None, Tensor | None]]


def _penalised(
    penalty: Penalty,
    strength: float,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy plus ``strength`` times a penalty of the batch: one softmax for both."""
    checks.within("strength", strength, 0)
    some = selected(logits, target, weight, ignore_index, reduction)
    if not len(some.logits):
        return some.reduced(some.logits.sum(1))
    whole = reduction != "none"
    factor = some.factor() if whole else 1.0 if some.scale is None else some.scale
    values: Tensor = _Penalised.apply(some.logits, some.target, factor, whole, strength, penalty)
    return values if whole else some.placed(values)


class _Penalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        factor: Tensor | float,
        whole: bool,
        strength: float,
        penalty: Penalty,
    ) -> Tensor:
        p, log_p, at = _softmax(logits, target)
        r, hit = log_p[:, 1].exp(), (at[:, 1] == target).to(p.dtype)
        excess = (p.sum(0) - torch.bincount(target, minlength=p.shape[1])) / len(p)
        value, by_r, by_excess = penalty(r, hit, excess)
        ctx.save_for_backward(logits, target)
        ctx.whole, ctx.factor, ctx.p, ctx.at = whole, factor, p, at
        ctx.pull = None if by_r is None else strength * by_r * r
        ctx.push = None if by_excess is None else by_excess * (strength / len(p))
        plain = -log_p[:, 0] * factor
        return (plain.sum() if whole else plain) + strength * value

    @staticmethod
    @once
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (logits, target), at = ctx.saved_tensors, ctx.at
        # Given away; a second walk through the graph takes it anew.
        p, ctx.p = ctx.p, None
        p = _softmax(logits, target)[0] if p is None else p
        every = upstream if ctx.whole else upstream.sum()
        by_log = torch.zeros_like(at, dtype=p.dtype)
        by_log[:, 0] = -upstream * ctx.factor
        if ctx.pull is not None:
            by_log[:, 1] = every * ctx.pull
        for some in parts(p):
            # Of sum_k b_k log p_k: b - (sum b) p; of sum_k t_k p_k: p (t - t p).
            own, less = p[some], by_log[some].sum(1, keepdim=True)
            if ctx.push is None:
                own.mul_(-less)
            else:
                push = every * ctx.push
                own.mul_(push - (less + (own @ push)[:, None]))
        gradient = p.scatter_add_(1, at, by_log).to(logits.dtype)
        return gradient, None, None, None, None, None


def _softmax(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``p`` (N, C), ``log p`` of the target and of the largest, and where these two stand."""
    wide = logits.dtype if logits.dtype == torch.float64 else torch.float32
    found = []
    with exact(logits.device.type):
        for some in parts(logits):
            z = logits[some].to(wide)
            at = torch.cat([target[some, None], first_largest(z)[1]], 1)
            found.append((*softmax_at(z, at), at))
    p, log_p, at = found[0] if len(found) == 1 else map(torch.cat, zip(*found, strict=True))
    return p, log_p, at


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

    Raises:
        ValueError: shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> mmce_loss(torch.zeros(1, 2), torch.tensor([0]), strength=1.0)  # log 2 + 1/2
        tensor(1.1931)
    """

    def penalty(r: Tensor, h: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        square, slope = _mmce(r, h)
        value = square.clamp_min(torch.finfo(r.dtype).tiny).sqrt()
        return value, slope * (square > 0) / (2 * value), None

    return _penalised(penalty, strength, logits, target, **reduced)


def mmce(confidence: Tensor, hit: Tensor) -> Tensor:
    """Return the squared maximum mean calibration error of confidences and hits, both (N,).

    Example:
        >>> mmce(torch.tensor([0.75, 0.75]), torch.tensor([1.0, 0.0]))  # (-1/2)^2 / 4
        tensor(0.0625)
    """
    found: Tensor = _MMCE.apply(confidence, hit)
    return found


def _mmce(confidence: Tensor, hit: Tensor) -> tuple[Tensor, Tensor]:
    """``M`` and its slope by the confidences, (N,)."""
    # Sorted by r, K g is one pass from below and one from above: exp(-(r_i - r_j) / w) is a product
    # of factors up to e^2.5, so nothing overflows.
    r, order = confidence.sort()
    gap, up = hit[order] - r, (r / _WIDTH).exp()
    low, high = gap * up, gap / up
    below = (low.cumsum(0) - low) / up
    above = (high.sum() - high.cumsum(0)) * up
    around, count = gap + below + above, max(1, len(r))
    # d/dr_i of sum_ij g_i g_j k(r_i, r_j), k's slope being -sign(r_i - r_j) k / w.
    slope = (around + gap * (below - above) / _WIDTH) * (-2 / count**2)
    return (gap @ around) / count**2, torch.empty_like(slope).scatter_(0, order, slope)


class _MMCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, confidence: Tensor, hit: Tensor) -> Tensor:
        value, slope = _mmce(confidence, hit)
        ctx.save_for_backward(confidence, slope)
        return value

    @staticmethod
    @once
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[1] * upstream, None


@logit_loss("dca", paper="Liang et al. 2020, arXiv 2009.04057")
def dca_loss(logits: Tensor, target: Tensor, *, strength: float = 1.0, **reduced: Any) -> Tensor:
    """Return ``-log p_y + s |mean_i h_i - mean_i r_i|``: accuracy against mean confidence.

    Args:
        logits: (N, C).
        target: (N,) int64.
        strength: ``s``, at least 0.
        reduced: ``ignore_index``, and ``weight`` and ``reduction`` of the cross-entropy; see
            :func:`qact.losses.rowwise`.

    Raises:
        ValueError: shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> dca_loss(torch.zeros(1, 2), torch.tensor([0]))  # log 2 + |1 - 1/2|
        tensor(1.1931)
    """

    def penalty(r: Tensor, h: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        gap = (r - h).mean()
        return gap.abs(), (gap.sign() / len(r)).expand_as(r), None

    return _penalised(penalty, strength, logits, target, **reduced)


@logit_loss("mdca", paper="Hebbalaguppe et al. 2022, arXiv 2203.13834")
def mdca_loss(logits: Tensor, target: Tensor, *, strength: float = 1.0, **reduced: Any) -> Tensor:
    """Return ``-log p_y + s mean_k |mean_i p_ik - mean_i [y_i = k]|``: every class's frequency.

    Args:
        logits: (N, C).
        target: (N,) int64.
        strength: ``s``, at least 0.
        reduced: ``ignore_index``, and ``weight`` and ``reduction`` of the cross-entropy; see
            :func:`qact.losses.rowwise`.

    Raises:
        ValueError: shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> mdca_loss(torch.zeros(1, 2), torch.tensor([0]))  # log 2 + 1/2
        tensor(1.1931)
    """

    def penalty(r: Tensor, h: Tensor, excess: Tensor) -> tuple[Tensor, None, Tensor]:
        return excess.abs().mean(), None, excess.sign() / len(excess)

    return _penalised(penalty, strength, logits, target, **reduced)


@register("norm_loss", paper="Georgiou et al. 2021, arXiv 2103.06583", of="weights")
class NormLoss(nn.Module):
    """``s sum_c (1 - ||w_c||)^2`` over the filters of all layers: a soft tie to unit length.

    0 only where every filter has length 1. It is added to another loss, in the place of weight
    decay.

    Args:
        strength: ``s``, at least 0.

    Raises:
        ValueError: ``strength`` is not as described.

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
