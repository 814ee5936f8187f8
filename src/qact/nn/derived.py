"""Subclasses: whether a layer still computes what the class does that something is known of."""

from __future__ import annotations

from torch import nn

CODE = ("forward", "level")


def computes(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether ``layer`` does in ``eval()`` what a ``kind`` does.

    A subclass with a ``forward`` or a ``level`` of its own may do anything, unless it says of
    itself, by ``same_in_eval = True``, that it does the same.

    >>> [computes(nn.ReLU(), kind) for kind in (nn.ReLU, nn.Module, nn.Tanh)]
    [True, False, False]
    """
    own = type(layer)
    if not isinstance(layer, kind) or own.__dict__.get("same_in_eval", False):
        return isinstance(layer, kind)
    return all(getattr(own, name, None) is getattr(kind, name, None) for name in CODE)
