r"""Losses of cosines ``c_k = cos theta_k`` between an embedding and the vector of each class.

    L = -log( exp(s psi(c_y)) / (exp(s psi(c_y)) + sum_{k != y} exp(s c_k)) )

``psi(c) = c`` is the normalised softmax; a ``psi`` below it asks for a margin between the angle to
the own class and all others. :mod:`qact.losses.heads` has the layers that learn the class vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qact import checks
from qact.losses.rows import Form, less_one, rowwise, softmax_at

Psi = Callable[[Tensor], tuple[Tensor, Tensor]]  # c -> (psi(c), psi'(c))


def _form(psi: Psi, scale: float) -> Form:
    checks.number("scale", scale, "a positive number", 0)

    def form(cosines: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        at = y[:, None]
        moved, slope = psi(cosines.gather(1, at).clamp(-1, 1))
        gradient, own = softmax_at(cosines.scatter(1, at, moved).mul_(scale), at)
        gradient.mul_(scale)
        return -own[:, 0], gradient.scatter_(1, at, scale * slope * own.expm1())

    return form


def normalised_softmax_loss(
    cosines: Tensor, target: Tensor, *, scale: float = 20.0, **reduced: Any
) -> Tensor:
    """Return the cross-entropy of ``s c``: ``psi(c) = c``.

    Args:
        cosines: (N, C), in [-1, 1].
        target: (N,) int64.
        scale: ``s``, one over a temperature.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> normalised_softmax_loss(torch.full((1, 4), 0.3), torch.tensor([0]))  # log 4
        tensor(1.3863)
    """
    return rowwise(_form(lambda c: (c, torch.ones_like(c)), scale), cosines, target, **reduced)


def cosface_loss(
    cosines: Tensor, target: Tensor, *, margin: float = 0.35, scale: float = 64.0, **reduced: Any
) -> Tensor:
    """Return the loss with ``psi(c) = c - m`` (Wang et al. 2018, arXiv 1801.09414, eq. 4).

    Args:
        cosines: (N, C), in [-1, 1].
        target: (N,) int64.
        margin: ``m``, at least 0.
        scale: ``s``.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: ``margin``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> cosface_loss(torch.tensor([[0.6, 0.1]]), torch.tensor([0]), margin=0.5, scale=1.0)
        tensor(0.6931)
    """
    checks.within("margin", margin, 0)
    return rowwise(
        _form(lambda c: (c - margin, torch.ones_like(c)), scale), cosines, target, **reduced
    )


def arcface_loss(
    cosines: Tensor, target: Tensor, *, margin: float = 0.5, scale: float = 64.0, **reduced: Any
) -> Tensor:
    """Return the loss with ``psi(c) = cos(theta + m)`` (Deng et al. 2019, arXiv 1801.07698, eq. 3).

    Beyond ``theta = pi - m``, where that rises again and would drive a sample to the opposite of
    its class, ``psi(c) = c - m sin m``, as in its authors' first code (deepinsight/insightface) and
    in pytorch-metric-learning. Its slope grows without end towards ``theta = 0``, and is held
    there.

    Args:
        cosines: (N, C), in [-1, 1].
        target: (N,) int64.
        margin: ``m``, in radians, in [0, pi).
        scale: ``s``.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: ``margin``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> arcface_loss(torch.tensor([[1.0, 0.5]]), torch.tensor([0]), margin=1.0472, scale=1.0)
        tensor(0.6931)
    """
    cos, sin = math.cos(checks.within("margin", margin, 0, math.pi)), math.sin(margin)

    def psi(c: Tensor) -> tuple[Tensor, Tensor]:
        height = (1 - c.square()).sqrt()  # sin theta
        slope = cos + sin * c / height.clamp_min(torch.finfo(c.dtype).eps ** 0.5)
        beyond = c < -cos  # theta > pi - m
        value = torch.where(beyond, c - margin * sin, cos * c - sin * height)
        return value, slope.masked_fill(beyond, 1)

    return rowwise(_form(psi, scale), cosines, target, **reduced)


def sphereface_psi(c: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """Return ``(-1)^k cos(m theta) - 2 k``, ``k = floor(m theta / pi)``, and its slope by ``c``.

    Example:
        >>> sphereface_psi(torch.tensor([1.0, 0.0, -1.0]), 2)[0]
        tensor([ 1., -1., -3.])
    """
    theta = c.acos()
    k = (margin * theta.detach() / math.pi).floor().clamp_max(margin - 1)
    sign = 1 - 2 * (k % 2)
    height = (1 - c.square()).clamp_min(0).sqrt()
    steep = torch.where(height > 0, sign * margin * (margin * theta).sin() / height, margin**2)
    return sign * (margin * theta).cos() - 2 * k, steep


def sphereface_loss(
    cosines: Tensor, target: Tensor, *, margin: int = 4, scale: float = 30.0, **reduced: Any
) -> Tensor:
    """Return the loss with ``psi(c) = (-1)^k cos(m theta) - 2 k``, ``k = floor(m theta / pi)``.

    Liu et al. 2017, arXiv 1704.08063, eq. 7, with the fixed scale of Liu et al. 2022 (arXiv
    2109.05565) in the place of the embedding's length; :class:`qact.losses.SphereFace` has that.

    Args:
        cosines: (N, C), in [-1, 1].
        target: (N,) int64.
        margin: ``m``, an integer of at least 1.
        scale: ``s``.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: ``margin``, shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> sphereface_loss(torch.tensor([[0.0, -1.0]]), torch.tensor([0]), margin=2, scale=1.0)
        tensor(0.6931)
    """
    checks.integer("margin", margin, 1)
    return rowwise(_form(lambda c: sphereface_psi(c, margin), scale), cosines, target, **reduced)


def sphereface2_loss(
    scores: Tensor,
    target: Tensor,
    *,
    margin: float = 0.4,
    balance: float = 0.7,
    scale: float = 40.0,
    **reduced: Any,
) -> Tensor:
    """Return SphereFace2's binary losses of scores ``a_k = r g(c_k) + b``.

        (l / r) softplus(r m - a_y) + ((1 - l) / r) sum_{k != y} softplus(r m + a_k)

    Each class is a question of its own, on the sphere (Wen et al. 2022, arXiv 2108.01513).
    :func:`sphereface2_scores` makes the scores.

    Args:
        scores: (N, C).
        target: (N,) int64.
        margin: ``m``, at least 0.
        balance: ``l``, the weight of the own class, in (0, 1).
        scale: ``r``.
        reduced: ``weight``, ``ignore_index``, ``reduction``: see :func:`qact.losses.rowwise`.

    Raises:
        ValueError: shapes, targets or ``reduction`` are not as described.
        TypeError: logits are not floating or targets not integer.

    Example:
        >>> sphereface2_loss(torch.zeros(1, 2), torch.tensor([0]), margin=0, balance=0.5, scale=1)
        tensor(0.6931)
    """
    return rowwise(sphereface2_form(margin, balance, scale), scores, target, **reduced)


def sphereface2_form(margin: float, balance: float, scale: float) -> Form:
    """Return the form of :func:`sphereface2_loss`, or say which option is wrong."""
    checks.within("margin", margin, 0)
    checks.number("scale", scale, "a positive number", 0)
    if not 0 < checks.number("balance", balance, "in (0, 1)", 0, 1) < 1:
        raise ValueError(f"balance={balance!r} must be in (0, 1)")
    return partial(_sphereface2, scale * margin, balance / scale, (1 - balance) / scale)


def _sphereface2(
    margin: float, own_share: float, rest_share: float, a: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    at, softplus = y[:, None], torch.nn.functional.softplus
    raised, own = a + margin, margin - a.gather(1, at)
    value = softplus(raised).scatter_(1, at, 0.0).sum(1) * rest_share
    gradient = raised.sigmoid_().mul_(rest_share)
    gradient.scatter_(1, at, -own_share * own.sigmoid())
    return value + own_share * softplus(own)[:, 0], gradient


def sphereface2_scores(cosines: Tensor, bias: Tensor, scale: float, t: float) -> Tensor:
    """Return ``r g(c) + b`` with ``g(c) = 2 ((c + 1) / 2)^t - 1``, which is -1 at -1 and 1 at 1.

    Example:
        >>> sphereface2_scores(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor(0.0), 1.0, 3.0)
        tensor([-1.0000, -0.7500,  1.0000])
    """
    return ((cosines + 1) / 2).clamp_min(0) ** t * (2 * scale) + (bias - scale)


def wrapped_cauchy(cosines: Tensor, concentration: Tensor) -> Tensor:
    """Return the wrapped Cauchy density ``(1 - r^2) / (2 pi (1 + r^2 - 2 r c))`` at ``acos(c)``.

    Args:
        cosines: (..., C).
        concentration: ``r`` of each class, (C,), in [0, 1); 0 is the uniform density 1 / (2 pi).

    Example:
        >>> wrapped_cauchy(torch.tensor([0.3]), torch.tensor([0.0]))
        tensor([0.1592])
    """
    square = concentration.square()
    return (1 - square) / (2 * math.pi * (1 + square - 2 * concentration * cosines))


def wrapped_cauchy_form(
    c: Tensor, y: Tensor, concentration: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The form of cross-entropy of ``scale`` times :func:`wrapped_cauchy`."""
    at, square = y[:, None], concentration.square()
    over = (1 + square - 2 * concentration * c).reciprocal_()
    density = over * ((1 - square) / (2 * math.pi))
    p, t = softmax_at(density * scale, at)
    pull = less_one(p, at)
    by_scale = (pull * density).sum(1, keepdim=True)
    pull.mul_(over).mul_(scale)
    # d density / dr = -over (r / pi + 2 (r - c) density)
    by_concentration = (concentration - c).mul_(density).mul_(2).add_(concentration / math.pi)
    by_concentration.mul_(pull).neg_()
    return -t[:, 0], density.mul_(pull).mul_(2 * concentration), by_concentration, by_scale
