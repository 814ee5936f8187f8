"""Functions that read the statistics of the batch: Dice."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qact import checks
from qact.activations.registry import register
from qact.activations.shell import Shell, along
from qact.rank.layout import fold


def dice(
    input: Tensor, alpha: Tensor, mean: Tensor, var: Tensor, dim: int = 1, eps: float = 1e-8
) -> Tensor:
    """``p x + (1 - p) alpha x``, ``p = sigmoid((x - mean) / sqrt(var + eps))``.

    Data-adaptive activation (Zhou et al. 2017, arXiv 1706.06978, Eq. 3). The gate is a logistic
    guess at the rank of ``x``, which QAct takes exactly. ``alpha``, ``mean``, ``var`` (C,).

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> dice(x, torch.tensor([0.25]), torch.zeros(1), torch.ones(1), eps=0.0).flatten()
        tensor([-0.4517,  0.7983])
    """
    alpha, mean, var = (along(t.to(input.dtype), input, dim) for t in (alpha, mean, var))
    gate = torch.sigmoid((input - mean) * torch.rsqrt(var + eps))
    return input * (alpha + (1 - alpha) * gate)


@register(
    "dice",
    paper="Zhou et al. 2017, arXiv 1706.06978, Eq. 3",
    formula="p x + (1 - p) alpha x, p = sigmoid((x - mean) / std)",
    parameters=("alpha",),
    pointwise=False,
    needs_features=True,
)
class Dice(Shell):
    """Module of :func:`dice`: batch statistics in training, running ones in ``eval()``."""

    shown = ("num_features", "dim", "momentum")

    def __init__(
        self,
        num_features: int,
        alpha: float = 0.0,
        dim: int = 1,
        momentum: float = 0.1,
        eps: float = 1e-8,
        inplace: bool = False,
    ) -> None:
        super().__init__(inplace)
        self.num_features = checks.integer("num_features", num_features, 1)
        self.dim, self.eps = checks.integer("dim", dim), eps
        self.momentum = checks.number("momentum", momentum, "in (0, 1]", 0, 1)
        self.alpha = nn.Parameter(torch.full((num_features,), float(alpha)))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`dice` with the statistics of the mode."""
        wide = input if input.dtype == torch.float64 else input.float()
        mean, var = self.running_mean, self.running_var
        if self.training and input.numel():  # no values have no mean to follow
            var, mean = torch.var_mean(fold(wide, self.dim), (0, 2), correction=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                self.running_var.lerp_(var.to(self.running_var.dtype), self.momentum)
        return dice(wide, self.alpha, mean, var, self.dim, self.eps).to(input.dtype)
