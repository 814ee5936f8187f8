"""Gates that multiply two halves of the channels, and Maxout, which keeps the larger piece."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from qact import checks
from qact.activations.recompute import recomputed
from qact.activations.registry import register
from qact.activations.shell import Shell
from qact.rank.layout import channel_dim

_GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda b: b,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
}
_halving = partial(register, pointwise=False, halves=True)


def gated(input: Tensor, gate: str = "sigmoid", dim: int = 1) -> Tensor:
    """``a * gate(b)`` for the two halves ``a, b`` of ``input`` along ``dim``.

    ``gate``: ``"sigmoid"`` is GLU (Dauphin et al. 2016, arXiv 1612.08083, Eq. 1); ``"relu"``,
    ``"gelu"`` and ``"silu"`` are ReGLU, GEGLU and SwiGLU (Shazeer 2020, arXiv 2002.05202, Eq. 5);
    ``"linear"`` is SimpleGate (Chen et al. 2022, arXiv 2204.04676) and homogeneous of degree 2.

    Example:
        >>> gated(torch.tensor([[3.0, 2.0]]), "linear")
        tensor([[6.]])
    """
    checks.choice("gate", gate, tuple(_GATES))
    return _over_halves(lambda a, b: a * _GATES[gate](b), input, dim)


def drelu(input: Tensor, dim: int = 1) -> Tensor:
    """dReLU: ``max(0, a) max(0, b)`` of the two halves (Song et al. 2024, arXiv 2406.05955).

    Non-zero only where both halves are positive: a quarter of the values at a symmetric start.

    Example:
        >>> drelu(torch.tensor([[3.0, -1.0, 2.0, 5.0]]))
        tensor([[6., 0.]])
    """
    return _over_halves(lambda a, b: torch.relu(a) * torch.relu(b), input, dim)


def _over_halves(product: Callable[..., Tensor], input: Tensor, dim: int) -> Tensor:
    dim = channel_dim(input, dim)
    if input.shape[dim] % 2:
        raise ValueError(
            f"the input has {input.shape[dim]} channels at dim {dim} (shape {tuple(input.shape)}); "
            "a gate needs an even number"
        )
    if dim == 0:  # pieces are cut along the first dimension, so the halves must lie in another
        return _over_halves(product, input[None], 1)[0]
    return recomputed(lambda x: product(*x.chunk(2, dim)), input)


class _Gate(Shell):
    """A gate over the halves of the channels at ``dim``."""

    shown = ("dim",)
    gate = "sigmoid"

    def __init__(self, dim: int = 1, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.dim = checks.integer("dim", dim)

    def forward(self, input: Tensor) -> Tensor:
        """Multiply one half of the channels by the gate of the other."""
        return gated(input, self.gate, self.dim)


@_halving("glu", paper="Dauphin et al. 2016, arXiv 1612.08083, Eq. 1", formula="a sigmoid(b)")
class GLU(_Gate):
    """:func:`gated` with a sigmoid."""


@_halving("reglu", paper="Shazeer 2020, arXiv 2002.05202, Eq. 5", formula="a max(0, b)")
class ReGLU(_Gate):
    """:func:`gated` with ReLU."""

    gate = "relu"


@_halving("geglu", paper="Shazeer 2020, arXiv 2002.05202, Eq. 5", formula="a GELU(b)")
class GEGLU(_Gate):
    """:func:`gated` with GELU."""

    gate = "gelu"


@_halving("swiglu", paper="Shazeer 2020, arXiv 2002.05202, Eq. 5", formula="a SiLU(b)")
class SwiGLU(_Gate):
    """:func:`gated` with SiLU."""

    gate = "silu"


@_halving("simple_gate", paper="Chen et al. 2022, arXiv 2204.04676", formula="a b")
class SimpleGate(_Gate):
    """:func:`gated` without a function: the product of the halves."""

    gate = "linear"


@_halving("drelu", paper="Song et al. 2024, arXiv 2406.05955", formula="max(0, a) max(0, b)")
class DReLU(_Gate):
    """Module of :func:`drelu`."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`drelu`."""
        return drelu(input, self.dim)


def maxout(input: Tensor, k: int = 2, dim: int = 1) -> Tensor:
    """``max`` over groups of ``k`` neighbouring channels (Goodfellow et al. 2013, arXiv 1302.4389).

    The pieces come from the layer below, which must have ``k`` times the channels. The gradient
    flows to the winner alone.

    Example:
        >>> maxout(torch.tensor([[3.0, -3.0, -2.0, 2.0]]))
        tensor([[3., 2.]])
    """
    checks.integer("k", k, 2)
    dim = channel_dim(input, dim)
    if input.shape[dim] % k:
        raise ValueError(
            f"the input has {input.shape[dim]} channels at dim {dim} (shape {tuple(input.shape)}); "
            f"maxout needs a multiple of k={k}"
        )
    return input.unflatten(dim, (-1, k)).max(dim + 1).values


@_halving("maxout", paper="Goodfellow et al. 2013, arXiv 1302.4389", formula="max of k channels")
class Maxout(Shell):
    """Module of :func:`maxout`."""

    shown = ("k", "dim")

    def __init__(self, k: int = 2, dim: int = 1, inplace: bool = False) -> None:
        super().__init__(inplace)
        self.k, self.dim = checks.integer("k", k, 2), checks.integer("dim", dim)

    def forward(self, input: Tensor) -> Tensor:
        """Apply :func:`maxout`."""
        return maxout(input, self.k, self.dim)
