"""The backbone of a classifier, what stands before its last linear layer, and its features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from qact.surgery import tapped
from qact.vectors import wide


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
    with tapped(head, lambda input: seen.append(input.detach()), "input"):
        yield seen


def features_of(head: nn.Linear, seen: list[Tensor], logits: Tensor) -> Tensor:
    """The features (N, ...) that ``head`` has turned into ``logits`` (N, C), in float32 at least.

    Raises:
        ValueError: it was not called, or makes something else.
    """
    shape = tuple(seen[-1].shape) if seen else None
    if shape is None or shape[0] != len(logits) or head.out_features != logits.shape[1]:
        called = "was not called" if shape is None else f"was given {shape}"
        raise ValueError(
            f"{head} {called}, but the model returned logits of shape {tuple(logits.shape)}; name "
            "the layer that makes them with head="
        )
    return wide(seen[-1])
