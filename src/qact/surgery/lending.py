"""What one thread lends to a layer: other threads that use the layer at the same time never see it.

A value is kept on the layer, by thread, under a key. What reads it asks :func:`lent`. Of a layer
that cannot ask, since its class is not ours, the ``forward`` is replaced as long as any thread
lends something to it; the replacement asks.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from qact._compat import has_hooks
from qact.locks import Lock

RULE = "_rule"  # under this key a thread lends a norm what it normalises by: qact.statistics
_LOCK = Lock()  # the first and the last block on a layer may be of different threads
_HERE = threading.local()
_NUMBERS = itertools.count()


def this_thread() -> int:
    """A number that no other thread gets; the system gives its own out again, after a fork too."""
    if not hasattr(_HERE, "number"):
        _HERE.number = next(_NUMBERS)
    return _HERE.number


def lent(module: nn.Module, key: str) -> Any:
    """Return what this thread has lent to ``module`` as ``key`` by the innermost block, or None."""
    loans = module.__dict__.get(key)
    if not loans:
        return None
    if torch.compiler.is_compiling():  # a graph knows no threads: the latest block holds for all
        return list(loans.values())[-1][-1][0]
    mine = loans.get(this_thread())
    return mine[-1][0] if mine else None


def loans(module: nn.Module, key: str) -> list[Any]:
    """Return all that this thread has lent to ``module`` as ``key``, the outermost block first."""
    if torch.compiler.is_compiling():
        held = module.__dict__.get(key, {}).values()
        return [one[0] for stack in held for one in stack]
    return [one[0] for one in module.__dict__.get(key, {}).get(this_thread(), ())]


class Lent(partial):
    """The ``forward`` of a layer as long as something is lent to it."""


@contextmanager
def lending(
    module: nn.Module,
    key: str,
    value: Any,
    forward: Callable[..., Any] | None = None,
    slot: str = "forward",
) -> Iterator[None]:
    """Let ``lent(module, key)`` be ``value`` in this thread for a block; it leaves no trace.

    Blocks nest, and the innermost one holds, in whatever order they end. A copy made inside a
    block keeps what was lent.

    Args:
        module: any layer.
        key: of its ``__dict__``.
        value: anything but None.
        forward: called as ``forward(module, before, *args, **named)`` in the place of
            ``module.forward`` while a thread lends; ``before`` is the ``forward`` that the instance
            had of its own, or None.
        slot: another attribute of the instance than ``forward`` to be replaced so.

    Example:
        >>> layer = nn.ReLU()
        >>> with lending(layer, "_x", 1), lending(layer, "_x", 2):
        ...     lent(layer, "_x")
        2
        >>> lent(layer, "_x") is None, "_x" in vars(layer)
        (True, False)
    """
    me, mine, own = this_thread(), [value], vars(module)
    with _LOCK:
        if forward is not None and not own.get(key):
            own[slot] = Lent(forward, module, own.get(slot))
        # Others read without the lock, so what they hold is replaced and never changed.
        loans = own.get(key, {})
        own[key] = {**loans, me: [*loans.get(me, ()), mine]}
    try:
        yield
    finally:
        with _LOCK:
            rest = [one for one in own[key][me] if one is not mine]
            own[key] = {**own[key], me: rest}
            own[key] = {thread: held for thread, held in own[key].items() if held}
            if not own[key]:
                del own[key]
                if forward is not None:
                    _give_back(own, slot)


def _give_back(own: dict[str, Any], slot: str) -> None:
    """Take the replaced ``forward`` away, unless somebody has put another over it since."""
    ours = own.get(slot)
    if isinstance(ours, Lent):
        del own[slot]
        if ours.args[1] is not None:
            own[slot] = ours.args[1]


def untouched(module: nn.Module, *keys: str) -> bool:
    """Whether nothing stands between a call of ``module`` in this thread and its class's code.

    That is a hook, a ``forward`` of the instance, or something lent under one of ``keys``.
    """
    own = module.__dict__.get("forward")  # torch 2.6 compiles no vars
    own = own.args[1] if isinstance(own, Lent) else own
    return own is None and not has_hooks(module) and all(lent(module, key) is None for key in keys)
