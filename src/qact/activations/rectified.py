"""Relatives of ReLU: another slope, another threshold in the backward, clipped sparse forms."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.activations.recompute import step, with_partials
from qact.activations.registry import register
from qact.activations.shell import Shell
from qact.first_order import applied


def crrelu(input: Tensor, epsilon: Tensor) -> Tensor:
    """Correction-regularised ReLU ``max(0, x) + eps x exp(-x^2/2)`` (arXiv 2405.12954).

    The correction is odd and vanishes at infinity; ``epsilon = 0`` is ReLU.

    Example:
        >>> crrelu(torch.tensor([-1.0, 1.0]), torch.tensor([0.01]))
        tensor([-0.0061,  1.0061])
    """
    return with_partials(_crrelu, _crrelu_partials, input, epsilon)


def _bump(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x * x)


def _crrelu(x: Tensor, epsilon: Tensor) -> Tensor:
    return x.clamp_min(0.0) + epsilon * (x * _bump(x))


def _crrelu_partials(x: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
    bump = _bump(x)
    # Beyond 100 the bump is 0 in any precision, and in none may x^2 times 0 become a NaN.
    square = x.clamp(-100.0, 100.0).square()
    return step(x) + epsilon * (1 - square) * bump, x * bump


@register(
    "crrelu",
    paper="Sun et al. 2024, arXiv 2405.12954",
    formula="max(0, x) + eps x exp(-x^2 / 2)",
    parameters=("epsilon",),
)
class CRReLU(Shell):
    """Module of :func:`crrelu` with a trained ``epsilon``, one for the layer."""

    def __init__(self, epsilon: float = 0.01, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.epsilon = nn.Parameter(torch.tensor([float(epsilon)]))

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`crrelu`."""
        return crrelu(input, self.epsilon)


def helu(input: Tensor, alpha: float = 0.1) -> Tensor:
    """Hysteresis ReLU: ``max(0, x)``, with the derivative of a threshold at ``-alpha``.

    Slightly negative neurons go on learning: the backward passes the gradient where
    ``x > -alpha`` (Kimhi et al. 2024, arXiv 2411.10573). The paper leaves ``alpha`` to be chosen.

    Example:
        >>> x = torch.tensor([-1.0, -0.05, 2.0], requires_grad=True)
        >>> helu(x).sum().backward()
        >>> x.grad
        tensor([0., 1., 1.])
    """
    found: Tensor = applied(_HeLU, _moved, input, alpha)
    return found


class _HeLU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, alpha: float) -> Tensor:
        return torch.relu(input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, ctx.alpha = inputs
        ctx.save_for_backward(input)
        ctx.save_for_forward(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (input,) = ctx.saved_tensors
        if torch.compiler.is_compiling():
            return grad * step(input + ctx.alpha), None
        # The kernel of torch: the gradient where the value exceeds a threshold, else zero.
        return torch.ops.aten.threshold_backward(grad, input, -ctx.alpha), None


def _moved(ctx: Any, move: Tensor, _: None) -> Tensor:
    (input,) = ctx.saved_tensors
    return move * step(input + ctx.alpha)


@register(
    "helu",
    paper="Kimhi et al. 2024, arXiv 2411.10573",
    formula="max(0, x); backward 1[x > -alpha]",
)
class HeLU(Shell):
    """Module of :func:`helu`."""

    shown = ("alpha",)

    def __init__(self, alpha: float = 0.1, inplace: bool = False) -> None:
        super().__init__(inplace)
        if not alpha >= 0:
            raise ValueError(f"alpha={alpha!r} must not be negative")
        self.alpha = alpha

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`helu`."""
        return helu(input, self.alpha)


def clipped_shifted_relu(input: Tensor, tau: float = 1.0, m: float = 1.0) -> Tensor:
    """``min(max(0, x - tau), m)`` (Price et al. 2024, arXiv 2402.16184).

    On standard normal inputs a share ``Phi(tau)`` of the outputs is zero.

    Example:
        >>> clipped_shifted_relu(torch.tensor([0.5, 1.5, 9.0]), tau=1.0, m=2.0)
        tensor([0.0000, 0.5000, 2.0000])
    """
    return with_partials(
        partial(_shifted, tau=tau, m=m), partial(_shifted_partials, tau=tau, m=m), input
    )


def _shifted(x: Tensor, tau: float, m: float) -> Tensor:
    return (x - tau).clamp(0.0, m)


def _shifted_partials(x: Tensor, tau: float, m: float) -> tuple[Tensor]:
    return (step(x - tau) * step(tau + m - x),)


@register(
    "clipped_shifted_relu",
    paper="Price et al. 2024, arXiv 2402.16184",
    formula="min(max(0, x - tau), m)",
)
class ClippedShiftedReLU(Shell):
    """Module of :func:`clipped_shifted_relu`."""

    shown = ("tau", "m")

    def __init__(self, tau: float = 1.0, m: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.tau, self.m = tau, checks.number("m", m, "a positive bound", 0)

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`clipped_shifted_relu`."""
        return clipped_shifted_relu(input, self.tau, self.m)


def clipped_soft_threshold(input: Tensor, tau: float = 1.0, m: float = 1.0) -> Tensor:
    """``sign(x) min(max(0, |x| - tau), m)`` (Price et al. 2024, arXiv 2402.16184).

    On standard normal inputs a share ``2 Phi(tau) - 1`` of the outputs is zero.

    Example:
        >>> clipped_soft_threshold(torch.tensor([-1.5, 0.5, 9.0]), tau=1.0, m=2.0)
        tensor([-0.5000,  0.0000,  2.0000])
    """
    return with_partials(partial(_soft, tau=tau, m=m), partial(_soft_partials, tau=tau, m=m), input)


def _soft(x: Tensor, tau: float, m: float) -> Tensor:
    return nn.functional.softshrink(x, tau).clamp(-m, m)


def _soft_partials(x: Tensor, tau: float, m: float) -> tuple[Tensor]:
    return _shifted_partials(x.abs(), tau, m)


@register(
    "clipped_soft_threshold",
    paper="Price et al. 2024, arXiv 2402.16184",
    formula="sign(x) min(max(0, abs x - tau), m)",
)
class ClippedSoftThreshold(Shell):
    """Module of :func:`clipped_soft_threshold`."""

    shown = ("tau", "m")

    def __init__(self, tau: float = 1.0, m: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.tau = checks.number("tau", tau, "a positive threshold", 0)
        self.m = checks.number("m", m, "a positive bound", 0)

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`clipped_soft_threshold`."""
        return clipped_soft_threshold(input, self.tau, self.m)
