"""How a function carries a Gaussian signal: gains, the edge of chaos, the variance map.

Expectations over ``Z`` from N(0, 1) are sums over equal steps of [-12, 12] whose nodes avoid zero:
exact to rounding for smooth functions and for a kink at zero, and to about 1e-5 for others.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from qact import checks

Function = Callable[[Tensor], Tensor]

NODES, REACH = 2**18, 12.0


def expectation(f: Function) -> float:
    """``E[f(Z)]`` for standard normal ``Z``.

    Example:
        >>> round(expectation(lambda z: z**4), 9)
        3.0
    """
    step = 2 * REACH / NODES
    z = (torch.arange(NODES, dtype=torch.float64) + 0.5) * step - REACH
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return float((f(z).to(torch.float64) * density).sum() * step)


def second_moment(f: Function, q: float = 1.0) -> float:
    """``E[f(sqrt(q) Z)^2]``, the mean square of an output whose input has variance ``q``."""
    checks.number("q", q, "a positive variance", 0)
    with torch.no_grad():
        return expectation(lambda z: f(math.sqrt(q) * z).square())


def sampling_error(f: Function, width: int, q: float = 1.0) -> float:
    """Relative deviation of the mean of ``f(sqrt(q) Z)^2`` over ``width`` features, by chance.

    Example:
        >>> round(sampling_error(lambda z: z, 800), 3)  # sqrt((3 - 1) / 800)
        0.05
    """
    excess = second_moment(lambda x: f(x).square(), q) / second_moment(f, q) ** 2 - 1
    return math.sqrt(max(excess, 0.0) / checks.integer("width", width, 1))


def slope_moment(f: Function, q: float = 1.0) -> float:
    """``E[f'(sqrt(q) Z)^2]``, with the derivative by autograd."""
    checks.number("q", q, "a positive variance", 0)

    def squared(z: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = (math.sqrt(q) * z).requires_grad_()
            (slope,) = torch.autograd.grad(f(x).sum(), x)
        return slope.square()

    return expectation(squared)


def gain(f: Function, sigma: float = 1.0) -> float:
    """``sigma / sqrt(E[f(sigma Z)^2])``, the gain that keeps the deviation ``sigma``.

    Koneputugodage et al. 2025 (VI3NR), arXiv 2504.19270: with weights of deviation
    ``gain / sqrt(fan_in)`` the pre-activations of every layer have it. ReLU has ``sqrt(2)``,
    whatever ``sigma``.

    Example:
        >>> round(gain(torch.relu), 6), round(gain(torch.tanh), 4)
        (1.414214, 1.5925)
    """
    moment = second_moment(f, sigma**2)
    if not 0 < moment < math.inf:
        raise ValueError(f"the mean square of the function is {moment!r}: it has no gain")
    return sigma / math.sqrt(moment)


def edge_of_chaos(f: Function, q: float = 1.0) -> tuple[float, float]:
    """``(sigma_w, sigma_b)`` for which variance ``q`` is a fixed point and ``chi = 1``.

    Hayou et al. 2019, arXiv 1902.06853: ``q = sigma_b^2 + sigma_w^2 E[f(sqrt(q) Z)^2]`` and
    ``chi = sigma_w^2 E[f'(sqrt(q) Z)^2] = 1``. ReLU has the single point ``(sqrt(2), 0)``; tanh
    tends to ``(1, 0)`` for ``q -> 0``.

    Raises:
        ValueError: with ``chi = 1`` the variance would exceed ``q`` even without a bias.

    Example:
        >>> [round(sigma, 6) for sigma in edge_of_chaos(torch.tanh, 0.5)]
        [1.299221, 0.195042]
    """
    sigma_w2 = 1 / slope_moment(f, q)
    sigma_b2 = q - sigma_w2 * second_moment(f, q)
    if sigma_b2 < -1e-6 * q:
        raise ValueError(
            f"at q={q!r} the edge of chaos would need a bias of variance {sigma_b2:.3g}; "
            "choose another q"
        )
    return math.sqrt(sigma_w2), math.sqrt(max(sigma_b2, 0.0))


def variance_slope(f: Function, sigma_w: float, q: float = 1.0) -> float:
    """``d/dq`` of the variance map ``sigma_b^2 + sigma_w^2 E[f(sqrt(q) Z)^2]``.

    Below 1 the fixed point ``q`` is stable. Price et al. 2024, arXiv 2402.16184, show that sparse
    functions at the edge of chaos are not, unless their magnitude is clipped.

    Example:
        >>> round(variance_slope(torch.relu, 2**0.5), 6)
        1.0
    """
    # By Stein's lemma E[f^2]' = E[(Z^2 - 1) f^2] / (2 q): no derivative of f is needed.
    root = math.sqrt(checks.number("q", q, "a positive variance", 0))
    with torch.no_grad():
        slope = expectation(lambda z: (z * z - 1) * f(root * z).square()) / (2 * q)
    return sigma_w**2 * slope


def sparse_threshold(share: float, two_sided: bool = False) -> float:
    """``tau`` such that a share of the outputs is zero at variance 1 (arXiv 2402.16184).

    ``Phi^-1(share)`` for the shifted ReLU, ``Phi^-1((1 + share) / 2)`` for soft thresholding.

    Example:
        >>> round(sparse_threshold(0.841345), 4), round(sparse_threshold(0.682689, True), 4)
        (1.0, 1.0)
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share!r} must lie in (0, 1)")
    rank = (1 + share) / 2 if two_sided else share
    return float(torch.special.ndtri(torch.tensor(rank, dtype=torch.float64)))
