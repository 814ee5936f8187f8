"""Pade activation units: a trained ratio of polynomials without poles."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from qact.activations.recompute import with_partials
from qact.activations.registry import register
from qact.activations.shell import Shell

# Least squares against Leaky ReLU (slope 0.01) at 601 points of [-3, 3]: our own fit, off by 0.0056
# in the root mean square and by 0.034 at most, at the kink.
NUMERATOR = (0.033583, 0.505, 1.651314, 2.004515, 0.927935, 0.151537)
DENOMINATOR = (0.0, 3.969338, 0.0, 0.300074)


def pau(input: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``sum_{j=0..m} a_j x^j / (1 + |sum_{k=1..n} b_k x^k|)``, the safe Pade activation unit.

    Molina et al. 2019, arXiv 1907.06732. ``a`` (m + 1,), ``b`` (n,); the denominator is at
    least 1, so there is no pole.

    Example:
        >>> pau(torch.tensor([2.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
        tensor([0.4000])
    """
    if a.dim() != 1 or b.dim() != 1 or not a.numel() or not b.numel():
        raise ValueError(
            f"a and b must be vectors, got shapes {tuple(a.shape)} and {tuple(b.shape)}"
        )
    split = a.numel()  # each coefficient is a parameter of its own: their partials are powers
    return with_partials(
        partial(_pau, split=split),
        partial(_pau_partials, split=split),
        input,
        *a.unbind(),
        *b.unbind(),
    )


def _pau(x: Tensor, *coefficients: Tensor, split: int) -> Tensor:
    a, b = coefficients[:split], coefficients[split:]
    return _horner(x, a) / (1 + (x * _horner(x, b)).abs())


def _pau_partials(x: Tensor, *coefficients: Tensor, split: int) -> tuple[Tensor, ...]:
    a, b = coefficients[:split], coefficients[split:]
    below = x * _horner(x, b)
    inverse = 1 / (1 + below.abs())
    value = _horner(x, a) * inverse
    pull = -value * inverse * below.sign()  # what the denominator's polynomial does
    slope = inverse * _horner(x, _derived(a)) + pull * _horner(x, _derived((0 * a[0], *b)))
    return slope, *_powers(x, inverse, len(a)), *_powers(x, x * pull, len(b))


def _powers(x: Tensor, first: Tensor, count: int) -> list[Tensor]:
    found = [first]
    while len(found) < count:
        found.append(found[-1] * x)
    return found


def _derived(coefficients: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The coefficients of the derivative of a polynomial."""
    return tuple(k * c for k, c in enumerate(coefficients))[1:] or (0 * coefficients[0],)


def _horner(x: Tensor, coefficients: Sequence[Tensor]) -> Tensor:
    *rest, last = coefficients
    total = last.expand_as(x)
    for coefficient in reversed(rest):
        total = total * x + coefficient
    return total


@register(
    "pau",
    paper="Molina et al. 2019, arXiv 1907.06732",
    formula="sum a_j x^j / (1 + abs(sum b_k x^k))",
    parameters=("a", "b"),
)
class PAU(Shell):
    """Module of :func:`pau`, one for the layer, which starts as a fit to Leaky ReLU."""

    def __init__(
        self,
        a: tuple[float, ...] = NUMERATOR,
        b: tuple[float, ...] = DENOMINATOR,
        inplace: bool = False,
    ) -> None:
        super().__init__(inplace)
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.get_default_dtype()))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.get_default_dtype()))

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`pau`."""
        return pau(input, self.a, self.b)
