"""A batch as a transaction: one thread at a time, and an error puts everything back.

While a batch passes, a method changes parameters, stored statistics and what it remembers of the
stream, one after the other. A second thread would find it changed in part, and so would the next
batch after an error halfway.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qact.locks import Lock


class Transactions:
    """The lock of a method, and what the method was before the batch that passes now."""

    def __init__(self) -> None:
        self.lock = Lock(self._restore)
        self.before: Before | None = None
        self.buffers = Buffers()

    def __reduce__(self) -> tuple[type[Transactions], tuple[()]]:
        """A copy, and what was pickled, has a lock of its own."""
        return Transactions, ()

    @contextmanager
    def batch(self, method: nn.Module, state: set[str]) -> Iterator[None]:
        """Within the block no other thread is in one; an error puts ``method`` back.

        Args:
            method: whose tensors come back, those that may change.
            state: names of its attributes that come back; empty if nothing ever changes.
        """
        with self.lock:
            if not state:
                yield
                return
            self.before = Before(method, state, self.buffers)
            try:
                yield
            except BaseException:
                self.before.restore()
                raise
            finally:
                self.before = None

    def _restore(self) -> None:
        """In a child process: the thread that was halfway through a batch is gone."""
        if self.before is not None:
            self.before.restore()
            self.before = None


class Buffers:
    """Copies of buffers that are kept from batch to batch: contexts are large, and few move.

    A buffer is copied anew when torch has counted a change of it, as tables of QAct layers are.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, int, Tensor]] = {}

    def copies(self, buffers: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Each of the buffers with a copy of it, which is good until the next call."""
        kept = {}
        for buffer in buffers:
            found = self._kept.get(id(buffer))
            if buffer.is_inference():  # changes are not counted
                found = buffer, 0, buffer.clone()
            elif found is None or found[0] is not buffer or found[1] != buffer._version:
                found = buffer, buffer._version, buffer.detach().clone()
            kept[id(buffer)] = found
        self._kept = kept
        return [(buffer, copy) for buffer, _, copy in kept.values()]


class Before:
    """What a method was when this was made: copies of its tensors and of its state.

    Args:
        method: its parameters that learn, its buffers, and all of the modules beside its model
            (teachers) are copied.
        state: names of attributes that are copied too, if they can be.
        buffers: where copies of buffers are kept.
    """

    def __init__(self, method: nn.Module, state: set[str], buffers: Buffers) -> None:
        self.method = method
        still = {id(p) for p in method.model.parameters() if not p.requires_grad}  # type: ignore[union-attr]
        params = [p for p in method.parameters() if id(p) not in still]
        self.tensors: list[tuple[Tensor, Tensor]] = [(p, p.detach().clone()) for p in params]
        self.tensors += buffers.copies(method.buffers())
        own = vars(method)
        # These stay the same objects: parts of the model, and what the user has given.
        same: list[Any] = [*method.modules(), *method.parameters(), *method.buffers()]
        same += [value for name, value in own.items() if name not in state]
        memo: dict[int, Any] = {id(value): value for value in same}
        self.state = {name: _copied(own[name], memo) for name in state if name in own}

    @torch.no_grad()
    def restore(self) -> None:
        """Put all of it back; gradients go."""
        for tensor, before in self.tensors:
            tensor.copy_(before)
            tensor.grad = None
        vars(self.method).update(self.state)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy, or the object itself where there is none: an open file, say."""
    try:
        return copy.deepcopy(value, memo)
    except Exception:
        return value
