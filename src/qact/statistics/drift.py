"""How far contexts have drifted: of every QAct layer of a model, against those that it stores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qact import extras, notebook
from qact.context import Context
from qact.kernels import eager
from qact.nn.layer import QAct
from qact.rank.layout import fold
from qact.statistics.distance import kolmogorov, wasserstein
from qact.statistics.lend import adapting
from qact.surgery import batches as batches_of
from qact.surgery import call, evaluating, hooking, tapped

Contexts = dict[str, Context]


HEADS = ("layer", "KS mean", "max", "W1 mean", "max")


@dataclass(frozen=True)
class LayerDrift:
    """One layer: distances per channel (C,) between present and stored context.

    Args:
        name: of the layer in the model.
        ks: Kolmogorov-Smirnov statistics, in [0, 1].
        w1: Wasserstein-1 distances, in standard deviations of the stored context.
    """

    name: str
    ks: Tensor
    w1: Tensor


@dataclass(frozen=True)
class Drift:
    """All layers, in the order of the model; printed and in notebooks a table."""

    layers: tuple[LayerDrift, ...]

    @property
    def worst(self) -> LayerDrift:
        """The layer of the largest mean Kolmogorov-Smirnov statistic."""
        return max(self.layers, key=lambda layer: float(layer.ks.mean()))

    def _rows(self) -> list[tuple[str, ...]]:
        numbers = [(d.ks.mean(), d.ks.max(), d.w1.mean(), d.w1.max()) for d in self.layers]
        return [
            (d.name, *map("{:.3f}".format, n)) for d, n in zip(self.layers, numbers, strict=True)
        ]

    def __str__(self) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [HEADS, *self._rows()]
        return "\n".join(
            f"{name:{width}}  {ks:>7} {most:>5}  {w1:>7} {far:>5}"
            for name, ks, most, w1, far in lines
        )

    def _repr_html_(self) -> str:
        """Shown by notebooks."""
        return notebook.table("Drift from the stored contexts", HEADS, self._rows())

    def plot(self, ax: Any = None) -> Any:
        """Draw mean and range of the KS statistic of each layer; return the matplotlib axes."""
        if ax is None:
            with extras.needed("a plot", "bench"):
                from matplotlib import pyplot as plt
            ax = plt.subplots(layout="constrained")[1]
        place = range(len(self.layers))
        low = [float(layer.ks.min()) for layer in self.layers]
        high = [float(layer.ks.max()) for layer in self.layers]
        ax.vlines(place, low, high, alpha=0.4, linewidth=6, label="range of the channels")
        ax.plot(place, [float(layer.ks.mean()) for layer in self.layers], "o-", label="mean")
        ax.set_xticks(place, [layer.name for layer in self.layers], rotation=45, ha="right")
        ax.set(xlabel="layer", ylabel="KS distance to the stored context", ylim=(0, 1))
        ax.legend()
        return ax


def contexts(model: nn.Module) -> Contexts:
    """The stored context of each QAct layer, by name.

    Raises:
        ValueError: there is no QAct layer. RuntimeError: a context has seen no data.
    """
    found = {name: m.context for name, m in model.named_modules() if isinstance(m, QAct)}
    if not found:
        raise ValueError(f"{type(model).__name__} has no QAct layer, so no context to compare")
    for context in found.values():
        context.require_data()
    return found


def compared(stored: Contexts, present: Contexts) -> Drift:
    """The distances of contexts of the same names."""
    return Drift(tuple(_compared(name, stored[name], present[name]) for name in stored))


def _compared(name: str, stored: Context, present: Context) -> LayerDrift:
    tiny = torch.finfo(stored.std.dtype).tiny
    w1 = wasserstein(stored, present) / stored.std.clamp_min(tiny)
    return LayerDrift(name, kolmogorov(stored, present), w1)


@torch.no_grad()
def seen(model: nn.Module, batches: Tensor | Iterable[Any]) -> Contexts:
    """Contexts of what reaches each layer, which reads what it has stored.

    Values that are not finite are left out by channel.

    Raises:
        TypeError: ``batches`` yields no tensors. ValueError: nothing finite reaches some layer.
    """
    found: Contexts = {}
    with evaluating(model), adapting(model, "running"), hooking(model) as hooks:
        for name, layer in model.named_modules():
            if isinstance(layer, QAct):
                found[name] = layer.context.clone()
                found[name].reset_parameters()
                collect = partial(_collect, layer, found[name])
                hooks.enter_context(tapped(layer, collect, "input"))
        for batch in batches_of(batches):
            call(model, batch)
    if any(context.is_empty for context in found.values()):
        raise ValueError("batches hold nothing finite that reaches every QAct layer")
    return found


def _collect(layer: QAct, context: Context, input: Tensor) -> None:
    """A plain mean over the batches."""
    context.follow(eager.observe(fold(input, layer.dim), layer.rule, context.bins), None)
