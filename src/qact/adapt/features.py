"""What stands before the last linear layer of a classifier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


def head_of(model: nn.Module, head: str | None = None) -> nn.Linear:
    """The linear layer that makes the logits: the one named, or the last in the model.

    Raises:
        ValueError: there is none, or ``head`` names something else.
    """
    modules = dict(model.named_modules())
    if head is not None:
        found = modules.get(head)
        if not isinstance(found, nn.Linear):
            raise ValueError(f"head={head!r} is {found!r}; it must name an nn.Linear of the model")
        return found
    linear = [m for m in modules.values() if isinstance(m, nn.Linear)]
    if not linear:
        raise ValueError(f"{type(model).__name__} has no nn.Linear whose input are the features")
    return linear[-1]


@contextmanager
def watching(head: nn.Linear) -> Iterator[list[Tensor]]:
    """Within the block, inputs (N, D) of ``head`` are collected in the list."""
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    try:
        yield seen
    finally:
        handle.remove()
