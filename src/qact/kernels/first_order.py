"""Gradients that have no gradient of their own, and say so.

``once_differentiable`` of PyTorch speaks up only where the gradient that comes in needs a gradient;
what depends on the input itself it gives out as a constant, and second derivatives are silently
short of a term.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def refusing(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Let a second derivative through this backward pass raise RuntimeError."""

    @wraps(backward)
    def once(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return backward(ctx, *grads)
        # All that the gradient depends on: what came in, and what the forward pass kept.
        causes = [t for t in (*grads, *ctx.saved_tensors) if t is not None and t.requires_grad]
        with torch.no_grad():
            found = backward(ctx, *grads)
        if not causes:
            return found
        marked = iter(_Once.apply(len(causes), *causes, *(t for t in found if t is not None)))
        return tuple(None if t is None else next(marked) for t in found)

    return once


class _Once(torch.autograd.Function):
    """The tensors behind the first ``n``, as functions of those: of an unknown slope."""

    generate_vmap_rule = True

    @staticmethod
    def forward(n: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.clone() for t in tensors[n:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise RuntimeError(
            "a rank in the context of its own batch has no second derivative here; differentiate "
            "twice in eval() with context='running', or with engine='reference'"
        )
