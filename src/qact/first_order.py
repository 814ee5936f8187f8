"""Backward passes of our own: those that have no gradient, and say so, and those of many gradients.

``once_differentiable`` of PyTorch speaks up only where the gradient that comes in needs a gradient,
and nothing else leads to the input: what depends on the input itself it gives out as a constant,
and second derivatives are silently short of a term.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from qact import _compat

Backward = Callable[..., tuple[Any, ...]]
Pass = TypeVar("Pass", bound=Callable[..., Any])


def one_by_one(backward: Pass) -> Pass:
    """Let a backward pass take the gradients of ``is_grads_batched=True`` one after the other.

    So do ``jacobian`` and ``hessian`` of ``torch.autograd.functional`` with ``vectorize=True``, by
    tensors that hide a dimension and that no kernel of ours can read.
    """

    @wraps(backward)
    def each(ctx: Any, *grads: Tensor | None) -> Any:
        if torch.compiler.is_compiling() or not any(map(_compat.is_batch_of_gradients, grads)):
            return backward(ctx, *grads)
        found = [backward(ctx, *row) for row in _compat.gradients_of(grads)]
        if isinstance(found[0], Tensor):
            return _compat.batch_of(found)
        columns = zip(*found, strict=True)
        return tuple(None if c[0] is None else _compat.batch_of(c) for c in columns)

    return each  # type: ignore[return-value]


def refusing(why: str) -> Callable[[Backward], Backward]:
    """Let a second derivative through a backward pass raise RuntimeError, which says ``why``."""

    def decorate(backward: Backward) -> Backward:
        @one_by_one
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
            given = *causes, *(t for t in found if t is not None)
            marked = iter(_Once.apply(why, len(causes), *given))
            return tuple(None if t is None else next(marked) for t in found)

        return once

    return decorate


def applied(function: type[torch.autograd.Function], jvp: Callable[..., Any], *given: Any) -> Any:
    """``function.apply(*given)``, which forward mode takes to its ``jvp``.

    A compiler takes no function that has one; so it gets the function alone.
    """
    if torch.compiler.is_compiling():
        return function.apply(*given)
    return _forward(function, jvp).apply(*given)


@lru_cache
def _forward(
    function: type[torch.autograd.Function], jvp: Callable[..., Any]
) -> type[torch.autograd.Function]:
    return type(function.__name__, (function,), {"jvp": staticmethod(jvp)})


def refuse_forward_twice() -> None:
    """Raise RuntimeError in a ``jvp`` of which a ``jvp`` is taken in its turn.

    PyTorch follows nothing that a ``jvp`` does, and gives 0 (pytorch#197867).
    """
    if _compat.forward_levels() > 1:
        raise RuntimeError(
            "there is no second derivative in forward mode over forward mode here; take one of "
            "them backward, as torch.func.hessian does"
        )


class _Once(torch.autograd.Function):
    """The tensors behind the first ``n``, as functions of those: of an unknown slope."""

    generate_vmap_rule = True

    @staticmethod
    def forward(why: str, n: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.clone() for t in tensors[n:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.why = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> NoReturn:
        raise RuntimeError(ctx.why)

    @staticmethod
    def jvp(ctx: Any, *_: Tensor | None) -> NoReturn:
        raise RuntimeError(ctx.why)
