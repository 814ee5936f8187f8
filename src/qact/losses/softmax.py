r"""Losses of ``softmax(z)`` that are cross-entropy at one value of their parameter.

``p = softmax(z)``, ``y`` the target, ``e_k`` the k-th unit vector. Where the loss depends on
``log p_y`` alone, ``L = phi(log p_y)``, its gradient is ``phi'(log p_y) (e_y - p)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qact import checks
from qact.losses.entropy import cross_entropy
from qact.losses.registry import logit_loss
from qact.losses.rows import Form, first_largest, less_one, log_loss, rowwise, softmax_at

_STEPS = 100  # of an iteration that mostly ends after five
_FLAT = 0.1  # slope below which Newton's step is not trusted
Scalar = Callable[[Tensor], tuple[Tensor, Tensor]]  # t -> (phi(t), phi'(t))


def of_log_probability(phi: Scalar) -> Form:
    """Return the form of ``phi(log p_y)``."""

    def form(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        at = y[:, None]
        p, t = softmax_at(z, at)
        value, slope = phi(t)
        return value[:, 0], p.mul_(-slope).scatter_add_(1, at, slope)

    return form


@logit_loss("comp_sum", paper="Mao, Mohri and Zhong 2023, arXiv 2304.07288")
def comp_sum_loss(logits: Tensor, target: Tensor, *, tau: float = 1.0, **reduced: Any) -> Tensor:
    """Return ``Phi(sum_{k != y} exp(z_k - z_y))``, ``Phi(u) = ((1 + u)^(1-tau) - 1) / (1 - tau)``.

    ``1 + u = 1 / p_y``. It is cross-entropy at ``tau`` 1 (where ``Phi`` is ``log(1 + u)``),
    generalised cross-entropy ``(1 - p_y^q) / q`` with ``q = tau - 1`` between 1 and 2, ``1 - p_y``
    at 2 and the sum of exponentials at 0.

    Args:
        logits: (N, C).
        target: (N,) int64.
        tau: at least 0. Below 1 the loss overflows with logits a hundred apart, as it should.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: ``tau``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> comp_sum_loss(torch.zeros(1, 4), torch.tensor([0]), tau=2.0)  # 1 - 1/4
        tensor(0.7500)
    """
    rate = checks.within("tau", tau, 0) - 1
    if rate == 0:
        return rowwise(log_loss, logits, target, **reduced)

    def phi(t: Tensor) -> tuple[Tensor, Tensor]:
        return (t * rate).expm1_().div_(-rate), -(t * rate).exp_()

    return rowwise(of_log_probability(phi), logits, target, **reduced)


@logit_loss("generalized_cross_entropy", paper="Zhang and Sabuncu 2018, arXiv 1805.07836")
def generalized_cross_entropy(
    logits: Tensor, target: Tensor, *, q: float = 0.7, **reduced: Any
) -> Tensor:
    """Return ``(1 - p_y^q) / q``: between cross-entropy (``q`` 0) and ``1 - p_y`` (``q`` 1).

    Made for wrong labels: what is far from its label pulls less. See :func:`comp_sum_loss`.

    Raises:
        ValueError: ``q``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> generalized_cross_entropy(torch.zeros(1, 4), torch.tensor([0]), q=0.5)  # (1 - 1/2) / .5
        tensor(1.)
    """
    return comp_sum_loss(
        logits, target, tau=1 + checks.number("q", q, "in (0, 1]", 0, 1), **reduced
    )


@logit_loss("mean_absolute_error", paper="Ghosh, Kumar and Sastry 2017, arXiv 1712.09482")
def mean_absolute_error(logits: Tensor, target: Tensor, **reduced: Any) -> Tensor:
    """Return ``1 - p_y``, half the absolute error ``sum_k |p_k - [k = y]|`` of the paper.

    Raises:
        ValueError: shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> mean_absolute_error(torch.zeros(1, 4), torch.tensor([0]))
        tensor(0.7500)
    """
    return comp_sum_loss(logits, target, tau=2.0, **reduced)


@logit_loss("focal", paper="Lin et al. 2017, arXiv 1708.02002, eq. 4")
def focal_loss(logits: Tensor, target: Tensor, *, gamma: float = 2.0, **reduced: Any) -> Tensor:
    """Return ``-(1 - p_y)^gamma log p_y``; cross-entropy at ``gamma`` 0.

    Its minimiser is less confident than the frequencies, which is why Mukhoti et al. 2020
    (arXiv 2002.09437) calibrate networks by training with it.

    Args:
        logits: (N, C).
        target: (N,) int64.
        gamma: at least 0.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: ``gamma``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> focal_loss(torch.zeros(1, 2), torch.tensor([0]), gamma=1.0)  # log(2) / 2
        tensor(0.3466)
    """
    checks.within("gamma", gamma, 0)

    def phi(t: Tensor) -> tuple[Tensor, Tensor]:
        q = t.expm1().neg_()  # 1 - p_y, to its last digit
        power = q**gamma
        ratio = t / q.clamp_min(torch.finfo(t.dtype).tiny)  # -1 at the end, where power is 0
        return -power * t, power * (gamma * (1 - q) * ratio - 1)

    return rowwise(of_log_probability(phi), logits, target, **reduced)


@logit_loss("dual_focal", paper="Tao, Dong and Xu 2023, arXiv 2305.13665")
def dual_focal_loss(
    logits: Tensor, target: Tensor, *, gamma: float = 5.0, **reduced: Any
) -> Tensor:
    """Return ``-(1 - p_y + p_j)^gamma log p_y``, ``p_j`` the largest probability below ``p_y``.

    0 if there is none. Confidence is held back by the gap to the next class too, which mends the
    underconfidence of :func:`focal_loss`.

    Args:
        logits: (N, C).
        target: (N,) int64.
        gamma: at least 0; 0 is cross-entropy.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: ``gamma``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> dual_focal_loss(torch.zeros(1, 2), torch.tensor([0]), gamma=1.0)  # no p_j below 1/2
        tensor(0.3466)
    """
    checks.within("gamma", gamma, 0)

    def form(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        at = y[:, None]
        p, t = softmax_at(z, at)
        p_y = p.gather(1, at)
        # 1 below z_y and 0 elsewhere, as numbers: masks cost a processor ten times as much. Of
        # logits, since probabilities of nearly equal ones are rounded to one number.
        p_j, j = first_largest(torch.lt(z, z.gather(1, at), out=torch.empty_like(p)).mul_(p))
        gap = p_j - t.expm1()
        power = gap**gamma
        rise = gamma * power * torch.where(gap > 0, t / gap, -1)
        by_y, by_j = rise * p_y - power, -rise * p_j  # dL / d log p_y, dL / d log p_j
        gradient = p.mul_(-(by_y + by_j)).scatter_add_(1, at, by_y).scatter_add_(1, j, by_j)
        return (-power * t)[:, 0], gradient

    return rowwise(form, logits, target, **reduced)


@logit_loss("label_smoothing", paper="Szegedy et al. 2016, arXiv 1512.00567, section 7", soft=True)
def label_smoothing_loss(
    logits: Tensor, target: Tensor, *, smoothing: float = 0.1, **reduced: Any
) -> Tensor:
    """Return the cross-entropy with a target that is spread: ``1 - s`` on ``y``, ``s / C`` on all.

    It is cross-entropy plus ``s (z_y - mean_k z_k)``. With weights of the classes or soft targets
    it is :func:`qact.losses.cross_entropy`, which spreads those too.

    Raises:
        ValueError: ``smoothing``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> label_smoothing_loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.6931)
    """
    if reduced.get("weight") is not None or (isinstance(target, Tensor) and target.ndim == 2):
        return cross_entropy(logits, target, label_smoothing=smoothing, **reduced)
    checks.within("smoothing", smoothing, 0, 1)

    def form(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        at = y[:, None]
        p, t = softmax_at(z, at)
        # The mean of z - z_y, and not of z: beside large logits the difference is small.
        value = -t[:, 0] - smoothing * (z - z.gather(1, at)).mean(1)
        gradient = p.sub_(smoothing / z.shape[1])
        return value, gradient.scatter_add_(1, at, torch.full_like(t, smoothing - 1))

    return rowwise(form, logits, target, **reduced)


@logit_loss("maxsup", paper="Zhou et al. 2025, arXiv 2502.15798")
def maxsup_loss(logits: Tensor, target: Tensor, *, alpha: float = 0.1, **reduced: Any) -> Tensor:
    """Return ``-log p_y + alpha (max_k z_k - mean_k z_k)``.

    Label smoothing pulls at ``z_y`` in the place of ``max_k z_k``, also where the network errs; the
    two are equal where it is right.

    Args:
        logits: (N, C).
        target: (N,) int64.
        alpha: at least 0.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: ``alpha``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> maxsup_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([1]), alpha=1.0)  # 2.1269 + 1
        tensor(3.1269)
    """
    checks.within("alpha", alpha, 0)

    def form(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        at = y[:, None]
        top, first = first_largest(z)
        p, t = softmax_at(z, at)
        value = alpha * (top - z).mean(1, keepdim=True) - t
        gradient = p.sub_(alpha / z.shape[1])
        gradient.scatter_add_(1, first, torch.full_like(top, alpha))
        return value[:, 0], less_one(gradient, at)

    return rowwise(form, logits, target, **reduced)


@logit_loss("margin_smoothing", paper="Liu et al. 2022, arXiv 2111.15430")
def margin_smoothing_loss(
    logits: Tensor, target: Tensor, *, alpha: float = 0.1, margin: float = 10.0, **reduced: Any
) -> Tensor:
    """Return ``-log p_y + alpha mean_k max(0, max_j z_j - z_k - margin)``.

    Margin-based label smoothing (MbLS): only distances beyond the margin are shortened. The mean
    over classes, where the paper writes a sum, is its authors' code.

    Args:
        logits: (N, C).
        target: (N,) int64.
        alpha: at least 0.
        margin: at least 0.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: ``alpha``, ``margin``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> margin_smoothing_loss(torch.tensor([[3.0, 0.0]]), torch.tensor([0]), alpha=1, margin=1)
        tensor(1.0486)
    """
    checks.within("alpha", alpha, 0)
    checks.within("margin", margin, 0)

    def form(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        at, share = y[:, None], alpha / z.shape[1]
        top, first = first_largest(z)
        p, t = softmax_at(z, at)
        beyond = (top - z).sub_(margin).clamp_min_(0)
        value = share * beyond.sum(1) - t[:, 0]
        far = beyond.gt_(0)
        gradient = p.sub_(far, alpha=share)
        gradient.scatter_add_(1, first, share * far.sum(1, keepdim=True))
        return value, less_one(gradient, at)

    return rowwise(form, logits, target, **reduced)


@logit_loss("confidence_penalty", paper="Pereyra et al. 2017, arXiv 1701.06548")
def confidence_penalty_loss(
    logits: Tensor, target: Tensor, *, beta: float = 0.1, **reduced: Any
) -> Tensor:
    """Return ``-log p_y - beta H(p)``, ``H`` the entropy ``-sum_k p_k log p_k``.

    Args:
        logits: (N, C).
        target: (N,) int64.
        beta: at least 0.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: ``beta``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> confidence_penalty_loss(torch.zeros(1, 2), torch.tensor([0]), beta=1.0)
        tensor(0.)
    """
    checks.within("beta", beta, 0)

    def form(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        at = y[:, None]
        p, t = softmax_at(z, at)
        # log p = z - z_y + log p_y. A class of probability 0 at z = -inf adds 0, its limit, and
        # not 0 times infinity.
        log_p = z.sub(z.gather(1, at)).add_(t).clamp_min_(torch.finfo(z.dtype).min)
        entropy = -(p * log_p).sum(1, keepdim=True)
        value = -t - beta * entropy
        gradient = p.mul_(log_p.add_(entropy + 1 / beta)).mul_(beta) if beta else p
        return value[:, 0], less_one(gradient, at)

    return rowwise(form, logits, target, **reduced)


@logit_loss("ldr_kl", paper="Zhu et al. 2023, arXiv 2112.14869")
def ldr_kl_loss(
    logits: Tensor, target: Tensor, *, scale: float = 1.0, margin: float = 0.0, **reduced: Any
) -> Tensor:
    """Return ``s log((1/C) sum_k exp((z_k - z_y + c_k) / s))``, ``c_k = margin`` for ``k != y``.

    The loss of the worst weights of the classes, held near the uniform ones by a Kullback-Leibler
    penalty of strength ``s``. At ``s = 1`` it is cross-entropy less ``log C``; towards 0 it becomes
    ``max_k (z_k + c_k) - z_y``, a margin loss, and for large ``s`` the mean over ``k``.

    Args:
        logits: (N, C).
        target: (N,) int64.
        scale: ``s``, lambda in the paper, positive.
        margin: at least 0.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: ``scale``, ``margin``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> ldr_kl_loss(torch.tensor([[3.0, 0.0]]), torch.tensor([1]), scale=0.01)  # towards 3
        tensor(2.9931)
    """
    checks.number("scale", scale, "a positive number", 0)
    checks.within("margin", margin, 0)

    def form(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        at = y[:, None]
        gradient, t = softmax_at(_gaps(z, at, margin).div_(scale), at)
        value = scale * (-t - math.log(z.shape[1]))
        return value[:, 0], less_one(gradient, at)

    return rowwise(form, logits, target, **reduced)


def _gaps(z: Tensor, at: Tensor, margin: float) -> Tensor:
    """``z_k - z_y + margin``, and 0 at ``y``: there ``log p`` is minus the logarithm of the sum."""
    return (z - z.gather(1, at)).add_(margin).scatter_(1, at, 0.0)


@logit_loss("aldr_kl", paper="Zhu et al. 2023, arXiv 2112.14869 (adaptive; authors' code)")
def aldr_kl_loss(
    logits: Tensor,
    target: Tensor,
    *,
    scale: float = 1.0,
    alpha: float = 2.0,
    margin: float = 0.0,
    **reduced: Any,
) -> Tensor:
    """Return the LDR-KL loss with the temperature that each sample asks for.

        max_s  s log((1/C) sum_k exp((z_k - z_y + c_k) / s)) - (a log C / (2 s_0)) (s - s_0)^2

    At the maximum ``s = s_0 (1 - KL(p, 1/C) / (a log C))``, ``p`` the softmax at ``s``: a sample of
    which the network is sure has a lower temperature. It is found from ``s_0`` down, by Newton's
    steps; the authors take one step to the right hand side a visit, and keep ``s`` for each sample.
    For large ``a`` it is :func:`ldr_kl_loss`. They also divide logits by their mean size first,
    which is left to the network.

    Args:
        logits: (N, C).
        target: (N,) int64.
        scale: ``s_0``, positive.
        alpha: ``a``, above 1, so that ``s`` stays above ``s_0 (1 - 1/a)``.
        margin: ``c_k`` for ``k != y``, at least 0.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: ``scale``, ``alpha``, ``margin``, shapes, targets or ``reduction`` are not as
            described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> aldr_kl_loss(torch.zeros(1, 2), torch.tensor([0]))  # nothing is known: s = s_0
        tensor(0.)
    """
    checks.number("scale", scale, "a positive number", 0)
    checks.number("alpha", alpha, "above 1", 1)
    checks.within("margin", margin, 0)

    def form(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        at, log_c = y[:, None], math.log(z.shape[1])
        # A class at -inf adds 0 to the divergence, its limit, and not 0 times infinity.
        gaps = _gaps(z, at, margin).clamp_min_(torch.finfo(z.dtype).min)
        s = torch.full_like(z[:, :1], scale)
        low, stiff = scale * (1 - 1 / alpha), alpha * max(log_c, torch.finfo(z.dtype).tiny) / scale
        for _ in range(_STEPS):
            p, t = softmax_at(gaps / s, at)
            weighted = p.mul_(gaps)
            mean = weighted.sum(1, keepdim=True)
            variance = weighted.mul_(gaps).sum(1, keepdim=True) - mean.square()
            goal = scale - (mean / s + t + log_c) / stiff
            # Newton's step to where s is its own goal, and the goal where that would lead astray.
            slope = 1 - variance / (stiff * s**3)
            step = s + (goal - s) / slope
            new = torch.where((slope > _FLAT) & (step >= low), step, goal).clamp_(low, scale)
            moved, s = (new - s).abs(), new
            if (moved <= 64 * torch.finfo(z.dtype).eps * scale).all():
                break
        p, t = softmax_at(gaps / s, at)
        value = s * (-t - log_c) - stiff / 2 * (s - scale).square()
        return value[:, 0], less_one(p, at)

    return rowwise(form, logits, target, **reduced)
