"""How far contexts have drifted: of every QAct layer of a model, against those that it stores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
from qact.statistics.distance import kolmogorov, p_value, wasserstein
from qact.statistics.lend import adapting
from qact.surgery import hooking

Contexts = dict[str, Context]


HEADS = ("layer", "KS mean", "max", "p", "W1 mean", "max")


@dataclass(frozen=True)
class LayerDrift:
    """One layer: distances per channel (C,) between present and stored context.

    Args:
        name: of the layer in the model.
        ks: Kolmogorov-Smirnov statistics, in [0, 1].
        w1: Wasserstein-1 distances, in standard deviations of the stored context.
        p: how often samples of the stored context are as far in KS, or None if it cannot be told;
            see :func:`qact.statistics.distance.p_value`.
    """

    name: str
    ks: Tensor
    w1: Tensor
    p: Tensor | None = None

    @property
    def p_value(self) -> float | None:
        """Of all channels: the Cauchy combination of ``p`` (Liu and Xie 2020).

        It holds for small values however the channels depend on each other.
        """
        if self.p is None:
            return None
        score = torch.tan((0.5 - self.p.double().clamp(1e-15, 1 - 1e-6)) * torch.pi).mean()
        return float(0.5 - torch.atan(score) / torch.pi)


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
        rows = [[f"{value:.3f}" for value in part] for part in numbers]
        each = [layer.p_value for layer in self.layers]
        p = ["" if v is None else "<1e-9" if v < 1e-9 else f"{v:.2g}" for v in each]
        return [
            (d.name, *row[:2], one, *row[2:])
            for d, row, one in zip(self.layers, rows, p, strict=True)
        ]

    def __str__(self) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [HEADS, *self._rows()]
        return "\n".join(
            f"{name:{width}}  {ks:>7} {most:>5} {p:>7}  {w1:>7} {far:>5}"
            for name, ks, most, p, w1, far in lines
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


class Sizes:
    """How many independent values the channels of a layer have seen, by the ranks of samples.

    Values of one sample are alike. In a context that is right ranks have the variance 1/12, and
    their mean over a sample has the variance ``v``: ``n`` samples count as ``n / (12 v)`` values.
    """

    def __init__(self) -> None:
        self.ranks: list[Tensor] = []
        self.values = 0

    def add(self, rank: Tensor, dim: int) -> None:
        """Take in the ranks of a batch, channels at ``dim`` and samples first."""
        each = rank.movedim(dim, 1).flatten(2) if rank.dim() > 2 else rank[:, :, None]
        self.values += each.shape[0] * each.shape[2]
        self.ranks.append(each.mean(2))

    def effective(self) -> Tensor:
        """The numbers (C,), of one sample and the values that it has at the least and most."""
        ranks = torch.cat(self.ranks).double()
        count = len(ranks)
        if count == 1:
            return torch.ones_like(ranks[0])
        # A standard error larger: a variance that is too small by chance would cry wolf.
        variance = ranks.var(0) * (1 + (2 / (count - 1)) ** 0.5)
        return (count / (12 * variance)).nan_to_num(1.0).clamp(1, self.values)


def compared(stored: Contexts, present: Contexts, sizes: dict[str, Sizes] | None = None) -> Drift:
    """The distances of contexts of the same names, with p-values if ``sizes`` are known."""
    numbers = {} if sizes is None else {name: own.effective() for name, own in sizes.items()}
    layers = (_compared(n, stored[n], present[n], numbers.get(n)) for n in stored)
    return Drift(tuple(layers))


def _compared(name: str, stored: Context, present: Context, size: Tensor | None) -> LayerDrift:
    tiny = torch.finfo(stored.std.dtype).tiny
    w1 = wasserstein(stored, present) / stored.std.clamp_min(tiny)
    ks = kolmogorov(stored, present)
    return LayerDrift(name, ks, w1, None if size is None else p_value(ks, size))


@contextmanager
def watched(model: nn.Module) -> Iterator[tuple[Contexts, dict[str, Sizes]]]:
    """Contexts of what reaches each QAct layer in a block, and their sizes; layers read their own.

    Values that are not finite are left out by channel.

    Raises:
        ValueError: nothing finite has reached some layer when the block ends.
    """
    found: Contexts = {}
    sizes: dict[str, Sizes] = {}
    with adapting(model, "running"), hooking(model) as hooks:
        for name, layer in model.named_modules():
            if isinstance(layer, QAct):
                found[name], sizes[name] = layer.context.clone(), Sizes()
                found[name].reset_parameters()
                collect = partial(_collect, layer, found[name], sizes[name])
                hooks.enter_context(layer.heard(collect))
        yield found, sizes
    if any(context.is_empty for context in found.values()):
        raise ValueError("batches hold nothing finite that reaches every QAct layer")


def _collect(layer: QAct, context: Context, sizes: Sizes, input: Tensor) -> None:
    """A plain mean over the batches; one of no samples is none."""
    if not input.numel():
        return
    context.follow(eager.observe(fold(input, layer.dim), layer.rule, context.bins), None)
    sizes.add(layer.context.cdf(input, dim=layer.dim), layer.dim)
