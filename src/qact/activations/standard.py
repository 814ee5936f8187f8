"""The functions that torch has itself: entered by reference, with their papers."""

from __future__ import annotations

from functools import partial

from torch import nn

from qact.activations.registry import register

# name, class, paper, formula
_FIXED = (
    ("relu", nn.ReLU, "Nair and Hinton 2010", "max(0, x)"),
    ("relu6", nn.ReLU6, "Howard et al. 2017, arXiv 1704.04861", "min(max(0, x), 6)"),
    ("leaky_relu", nn.LeakyReLU, "Maas et al. 2013", "max(0, x) + slope min(0, x)"),
    ("elu", nn.ELU, "Clevert et al. 2015, arXiv 1511.07289", "x if x > 0 else alpha (e^x - 1)"),
    (
        "celu",
        nn.CELU,
        "Barron 2017, arXiv 1704.07483",
        "max(0, x) + min(0, alpha (e^(x/alpha) - 1))",
    ),
    (
        "selu",
        nn.SELU,
        "Klambauer et al. 2017, arXiv 1706.02515",
        "1.0507 (x if x > 0 else 1.6733 (e^x - 1))",
    ),
    ("softplus", nn.Softplus, "Dugas et al. 2001", "log(1 + e^x)"),
    ("softsign", nn.Softsign, "Bergstra et al. 2009", "x / (1 + abs x)"),
    ("sigmoid", nn.Sigmoid, "classical", "1 / (1 + e^-x)"),
    ("tanh", nn.Tanh, "classical", "tanh x"),
    ("hardtanh", nn.Hardtanh, "Collobert 2004", "min(max(-1, x), 1)"),
    (
        "hardswish",
        nn.Hardswish,
        "Howard et al. 2019, arXiv 1905.02244",
        "x min(max(0, x + 3), 6) / 6",
    ),
    ("silu", nn.SiLU, "Elfwing et al. 2017, arXiv 1702.03118", "x sigmoid(x)"),
    ("gelu", nn.GELU, "Hendrycks and Gimpel 2016, arXiv 1606.08415", "x Phi(x)"),
    (
        "gelu_tanh",
        partial(nn.GELU, approximate="tanh"),
        "Hendrycks and Gimpel 2016, arXiv 1606.08415",
        "x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))",
    ),
    ("mish", nn.Mish, "Misra 2019, arXiv 1908.08681", "x tanh(log(1 + e^x))"),
)

for _name, _make, _paper, _formula in _FIXED:
    register(_name, paper=_paper, formula=_formula, family="standard")(_make)


@register(
    "prelu",
    paper="He et al. 2015, arXiv 1502.01852, Eq. 1",
    formula="max(0, x) + a min(0, x)",
    family="standard",
    parameters=("weight",),
)
def prelu(num_features: int = 1, init: float = 0.25) -> nn.PReLU:
    """PReLU with one slope per channel, or one for all if no number of channels is given."""
    return nn.PReLU(num_features, init)
