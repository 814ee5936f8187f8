"""Hooks on a served model: sampled rows of every signal, call by call, all or none of a call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact._compat import tree_leaves
from qact.locks import Lock
from qact.monitor.signals import CONFIDENCE, INPUT, LOGITS, Layer, Sampler, layers
from qact.surgery import Where, hooked, hooking, inner, tapped
from qact.surgery.wrapped import compiled

Rows = dict[str, Tensor]
Keep = Callable[[Rows, int, int], None]


class Call:
    """What one call of the model has shown so far."""

    def __init__(self, size: int, sampler: Sampler | None) -> None:
        self.size, self.sampler = size, sampler
        self.parts: dict[str, list[Tensor]] = {}

    def see(self, name: str, z: Tensor, dim: int) -> None:
        """Keep the sampled rows of an activation, if any of the call are looked at."""
        if self.sampler is None:
            return
        if z.shape[0] != self.size:
            raise ValueError(
                f"at {name!r}: {z.shape[0]} rows for a batch of {self.size}; only layers that keep "
                "one row per sample can be watched: leave it out with where="
            )
        self.parts.setdefault(name, []).append(self.sampler.take(z, dim))

    def rows(self) -> Rows:
        """By signal (rows, C, positions); a layer that was called twice shows both."""
        return {name: torch.cat(part, 2) for name, part in self.parts.items()}


class Collector:
    """Watches calls of ``model`` in ``eval()`` and hands sampled rows on, one call at a time.

    A call is handed on when it has returned, with all of its signals or, if it raised, with none;
    calls of several threads never mix.

    Args:
        model: any module, called with a batch as its first tensor.
        where: which layers, see :func:`qact.monitor.signals.layers`.
        keep: called with the rows, and with how many images and calls have passed since the last
            time, in the thread of the call.
        sample: share of the images to look at.
        positions: per image and channel, see :class:`Sampler`.
        seed: of the sampling.
    """

    def __init__(
        self,
        model: nn.Module,
        where: Where,
        keep: Keep,
        *,
        sample: float = 1.0,
        positions: int | None = 16,
        seed: int = 0,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model={checks.shown(model)} must be a torch.nn.Module")
        if any(compiled(part) for part in model.modules()):
            raise ValueError(
                f"{type(inner(model)).__name__} is compiled, and a graph calls no later hooks: "
                "watch and serve the module that was given to torch.compile"
            )
        self.model, self.keep = inner(model), keep
        self.layers: list[Layer] = layers(self.model, where)
        self.sample, self.positions = sample, positions
        if positions is not None:
            checks.integer("positions", positions, 1)
        self._random = torch.Generator().manual_seed(checks.integer("seed", seed))
        self._owed, self._lock = 0.0, Lock()
        self._missed = [0, 0]  # images and calls that passed without one that was looked at
        self._open = threading.local()
        self._hooks: ExitStack | None = None

    def attach(self) -> None:
        """Put the hooks in."""
        with hooking(self.model) as hooks:
            hooks.enter_context(hooked(self.model, enter=self._begin, everywhere=True))
            for layer in self.layers:
                module, side = layer.place
                see = partial(self._see, layer)
                hooks.enter_context(tapped(module, see, side, everywhere=True))
            # Last and always: a call that raised must not stay open.
            last = hooked(self.model, leave=self._end, everywhere=True, always=True)
            hooks.enter_context(last)
            self._hooks = hooks.pop_all()

    def detach(self) -> None:
        """Take the hooks out; calls that are under way are not handed on."""
        if self._hooks is not None:
            self._hooks.close()
            self._hooks = None

    @property
    def attached(self) -> bool:
        """Whether the hooks are in."""
        return self._hooks is not None

    def _begin(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        found = [leaf for leaf in tree_leaves((args, named)) if _is_batch(leaf)]
        call = None
        own = module is self.model and not module.training  # a copy has copies of the hooks
        if own and found:
            batch: Tensor = found[0]
            call = Call(len(batch), self._chosen(len(batch)))
            if batch.is_floating_point() and batch.dim() > 1:
                call.see(INPUT, batch, 1)
        self._calls().append(call)

    def _chosen(self, size: int) -> Sampler | None:
        """Rows of a batch, so that in the long run the share is what was asked for."""
        with self._lock:
            self._owed += self.sample * size
            count = min(int(self._owed), size)
            self._owed -= count
            if not count:
                return None
            order = torch.randperm(size, generator=self._random, device="cpu")[:count].sort().values
            return Sampler.drawn(order, self.positions, self._random)

    def _calls(self) -> list[Call | None]:
        if not hasattr(self._open, "calls"):
            self._open.calls = []
        return self._open.calls

    def _see(self, layer: Layer, z: Tensor) -> None:
        calls = self._calls()
        if calls and calls[-1] is not None:
            calls[-1].see(layer.name, z, layer.dim)

    def _end(self, module: nn.Module, args: Any, named: Any, output: Any) -> None:
        calls = self._calls()
        call = calls.pop() if calls else None
        if call is None or output is None:
            return
        with self._lock:
            images, count = self._missed[0] + call.size, self._missed[1] + 1
            self._missed = [0, 0] if call.sampler else [images, count]
        if call.sampler is None:
            return
        if isinstance(output, Tensor) and output.dim() == 2 and output.is_floating_point():
            call.see(LOGITS, output, 1)
            logits = call.parts[LOGITS][0][:, :, 0]
            call.parts[CONFIDENCE] = [logits.softmax(1).amax(1)[:, None, None]]
        self.keep(call.rows(), images, count)


def _is_batch(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) > 0
