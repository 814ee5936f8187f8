"""What a form of attention is: weights of queries over keys, and the output, on heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qact import checks
from qact.vectors import exact, wide
from qact.weights.masking import fitting


class Form(nn.Module):
    """Attention of heads: ``output = finish(weights(q, k) @ values(v))``.

    A form whose time is linear in the tokens has a :meth:`forward` of its own, which gives the
    same; :meth:`quadratic` is the definition for all.

    Args:
        num_heads: ``H``.
        head_dim: ``D``.
        causal: no query sees a key behind it.

    Shape: queries (N, H, L, D), keys (N, H, S, D), values (N, H, S, E), output (N, H, L, E). Tokens
    ``x`` (N, L, H D) are read by some forms. A mask broadcasts to (N, H, L, S), boolean (True takes
    part) or additive; linear forms take boolean masks of keys, alike for all queries.
    """

    linear = False
    causal_form = True

    def __init__(self, num_heads: int, head_dim: int, causal: bool = False) -> None:
        super().__init__()
        self.num_heads = checks.integer("num_heads", num_heads, 1)
        self.head_dim = checks.integer("head_dim", head_dim, 1)
        self.causal = checks.flag("causal", causal)
        if causal and not self.causal_form:
            raise ValueError(f"causal=True: {type(self).__name__} looks at all tokens at once")

    def weights(
        self, q: Tensor, k: Tensor, x: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the weights (N, H, L, S)."""
        raise NotImplementedError

    def values(self, v: Tensor) -> Tensor:
        """Return what is weighed."""
        return v

    def finish(self, output: Tensor, x: Tensor | None) -> Tensor:
        """Return what becomes of the weighted sums."""
        return output

    def quadratic(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The output by its definition, from all weights, in float32 at least."""
        w = self.weights(wide(q), wide(k), x, mask)
        with exact(q.device.type):
            output = w @ self.values(wide(v))
        return self.finish(output, x).to(v.dtype)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, x: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the output (N, H, L, E)."""
        return self.quadratic(q, k, v, x, mask)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}, causal={self.causal}"


def tokens(x: Tensor | None, name: str) -> Tensor:
    """The tokens, or the error of a form that was not given them."""
    if x is None:
        raise ValueError(f"{name} reads the tokens themselves: pass x, (N, L, H D)")
    return x


def joint(
    mask: Tensor | None, causal: bool, q: Tensor, k: Tensor, first: bool = False
) -> Tensor | None:
    """The mask and the causal one as one; queries stand at the end of the keys, or at the first.

    Raises:
        TypeError, ValueError: the mask is none of these scores.
    """
    L, S = q.shape[-2], k.shape[-2]
    if mask is not None:
        fitting(mask, (*q.shape[:-1], S))
        mask = torch.atleast_2d(mask)  # as torch's own attention wants it
    if not causal:
        return mask
    lower = torch.ones(L, S, dtype=torch.bool, device=q.device).tril(0 if first else S - L)
    if mask is None:
        return lower
    if mask.dtype == torch.bool:
        return mask & lower
    return mask.masked_fill(~lower, -torch.inf)


def keys_kept(mask: Tensor | None, k: Tensor) -> Tensor | None:
    """A boolean mask of keys as (..., S, 1), or None.

    Raises:
        ValueError: the mask is not boolean, or differs between queries.
    """
    if mask is None:
        return None
    if mask.dtype != torch.bool or (mask.dim() > 1 and mask.shape[-2] != 1):
        raise ValueError(
            f"mask of shape {tuple(mask.shape)} and dtype {mask.dtype}: a linear form takes "
            "a boolean mask of keys, (..., 1, S); causal=True is an option of the form"
        )
    if mask.shape[-1] != k.shape[-2]:
        raise ValueError(f"mask of shape {tuple(mask.shape)} must have {k.shape[-2]} keys")
    return mask.unsqueeze(-1) if mask.dim() == 1 else mask.transpose(-1, -2)
