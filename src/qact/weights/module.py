"""The modules around maps: with options, and with a learnt number per head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks


class Weights(nn.Module):
    """A map from scores to weights along ``dim``: ``weights = module(scores, mask)``.

    Args:
        dim: along which the weights of a row stand.

    Shape: scores of any shape; a mask that broadcasts to it, boolean (True takes part) or additive.
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = checks.integer("dim", dim)

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weights, like the scores."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"dim={self.dim}"


class Map(Weights):
    """A map that trains nothing: a name, a function and its options, which are tried at once."""

    def __init__(
        self, name: str, function: Callable[..., Tensor], dim: int, options: dict[str, Any]
    ) -> None:
        super().__init__(dim)
        self.name, self.function, self.options = name, function, options
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            function(torch.zeros(8), 0, None, **options)

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weights, like the scores."""
        return self.function(scores, self.dim, mask, **self.options)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"{self.name!r}, dim={self.dim}{options}"


class PerHead(Weights):
    """A map with a learnt number per head; scores are ``(..., heads, queries, keys)`` if heads > 1.

    Args:
        heads: 1 for one number that all rows share.
        dim: along which the weights of a row stand.
    """

    def __init__(self, heads: int = 1, dim: int = -1) -> None:
        super().__init__(dim)
        self.heads = checks.integer("heads", heads, 1)

    def placed(self, parameter: Tensor, scores: Tensor) -> Tensor:
        """The parameter (heads,) so that it broadcasts against the scores.

        Raises:
            ValueError: the scores have another number of heads.
        """
        if self.heads == 1:
            return parameter
        if scores.dim() < 3 or scores.shape[-3] != self.heads:
            raise ValueError(
                f"scores of shape {tuple(scores.shape)} must have {self.heads} heads at dim -3"
            )
        return parameter.view(-1, 1, 1)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"heads={self.heads}, dim={self.dim}"
