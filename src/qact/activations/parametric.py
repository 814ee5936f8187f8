"""One or two trained numbers that move between known functions: Swish, APA and AGLU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact import checks
from qact.activations.recompute import with_partials
from qact.activations.registry import register
from qact.activations.shell import Shell

LEAST = 1e-4  # of lambda, where APA is the Gumbel law to within 1e-4


def swish(input: Tensor, beta: Tensor) -> Tensor:
    """``x sigmoid(beta x)`` (Ramachandran et al. 2017, arXiv 1710.05941).

    ``beta = 0`` is ``x/2``, ``beta = 1`` SiLU, and large ``beta`` ReLU.

    Example:
        >>> swish(torch.tensor([-1.0, 1.0]), torch.tensor([1.0]))
        tensor([-0.2689,  0.7311])
    """
    return with_partials(_swish, _swish_partials, input, beta)


def _swish(x: Tensor, beta: Tensor) -> Tensor:
    return x * torch.sigmoid(beta * x)


def _swish_partials(x: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    s = torch.sigmoid(beta * x)
    slope = x * (s * (1 - s))
    return s + beta * slope, x * slope


@register(
    "swish",
    paper="Ramachandran et al. 2017, arXiv 1710.05941",
    formula="x sigmoid(beta x)",
    parameters=("beta",),
)
class Swish(Shell):
    """Module of :func:`swish` with a trained ``beta``, one for the layer."""

    def __init__(self, beta: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.beta = nn.Parameter(torch.tensor([float(beta)]))

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`swish`."""
        return swish(input, self.beta)


def apa(input: Tensor, kappa: Tensor, lambda_: Tensor) -> Tensor:
    """Adaptive parametric activation ``(lambda exp(-kappa x) + 1)^(-1/lambda)``, ``lambda > 0``.

    Alexandridis et al. 2024, arXiv 2407.08567. ``lambda = 1`` is ``sigmoid(kappa x)``;
    ``lambda -> 0`` the Gumbel law ``exp(-exp(-kappa x))``. Values of ``lambda`` below 1e-4 count
    as 1e-4.

    Example:
        >>> apa(torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([1.0]))
        tensor([0.7311])
    """
    return with_partials(_apa, _apa_partials, input, kappa, lambda_.clamp_min(LEAST))


def _exponent(x: Tensor, kappa: Tensor, lambda_: Tensor) -> tuple[Tensor, Tensor]:
    # log1p(lambda e^(-kappa x)) without overflow
    u = torch.log(lambda_) - kappa * x
    return u, F.softplus(u)


def _apa(x: Tensor, kappa: Tensor, lambda_: Tensor) -> Tensor:
    return torch.exp(_exponent(x, kappa, lambda_)[1] * (-1 / lambda_))


def _apa_partials(x: Tensor, kappa: Tensor, lambda_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, total = _exponent(x, kappa, lambda_)
    power = 1 / lambda_  # one division, and not one for every value
    value, share = torch.exp(total * -power), torch.sigmoid(u) * power
    return value * share * kappa, value * share * x, value * (total * power - share) * power


def aglu(input: Tensor, kappa: Tensor, lambda_: Tensor) -> Tensor:
    """``x APA(x)``, see :func:`apa` (Alexandridis et al. 2024, arXiv 2407.08567).

    ``lambda = 1`` is Swish; ``lambda -> 0`` with ``kappa = 1`` is GoLU.

    Example:
        >>> aglu(torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([1e-4]))
        tensor([0.6922])
    """
    return with_partials(_aglu, _aglu_partials, input, kappa, lambda_.clamp_min(LEAST))


def _aglu(x: Tensor, kappa: Tensor, lambda_: Tensor) -> Tensor:
    return x * _apa(x, kappa, lambda_)


def _aglu_partials(x: Tensor, kappa: Tensor, lambda_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    slope, by_kappa, by_lambda = _apa_partials(x, kappa, lambda_)
    return _apa(x, kappa, lambda_) + x * slope, x * by_kappa, x * by_lambda


class _Adaptive(Shell):
    def __init__(self, kappa: float = 1.0, lambda_: float = 1.0, inplace: bool = False) -> None:
        super().__init__(inplace)
        checks.number("lambda_", lambda_, "a positive number", 0)
        self.kappa = nn.Parameter(torch.tensor([float(kappa)]))
        self.lambda_ = nn.Parameter(torch.tensor([float(lambda_)]))


@register(
    "apa",
    paper="Alexandridis et al. 2024, arXiv 2407.08567",
    formula="(lambda e^(-kappa x) + 1)^(-1/lambda)",
    parameters=("kappa", "lambda_"),
)
class APA(_Adaptive):
    """Module of :func:`apa` with trained ``kappa`` and ``lambda_``, one each for the layer."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`apa`."""
        return apa(input, self.kappa, self.lambda_)


@register(
    "aglu",
    paper="Alexandridis et al. 2024, arXiv 2407.08567",
    formula="x (lambda e^(-kappa x) + 1)^(-1/lambda)",
    parameters=("kappa", "lambda_"),
)
class AGLU(_Adaptive):
    """Module of :func:`aglu` with trained ``kappa`` and ``lambda_``, one each for the layer."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`aglu`."""
        return aglu(input, self.kappa, self.lambda_)
