"""Early warning: how far a model's present contexts are from those of its training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qact.adapt.contexts import adapting
from qact.adapt.distance import kolmogorov, wasserstein
from qact.adapt.method import Method
from qact.context import Context
from qact.kernels import eager
from qact.nn.layer import QAct
from qact.rank.layout import fold
from qact.surgery import batches as batches_of
from qact.surgery import call, evaluating, hooking


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
    """All layers, in the order of the model; ``print`` shows a table."""

    layers: tuple[LayerDrift, ...]

    @property
    def worst(self) -> LayerDrift:
        """The layer of the largest mean Kolmogorov-Smirnov statistic."""
        return max(self.layers, key=lambda layer: float(layer.ks.mean()))

    def __str__(self) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [f"{'layer':{width}}  KS mean   max  W1 mean   max"]
        for layer in self.layers:
            ks, w1 = layer.ks, layer.w1
            lines.append(
                f"{layer.name:{width}}  {ks.mean():7.3f} {ks.max():5.3f}"
                f"  {w1.mean():7.3f} {w1.max():5.3f}"
            )
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """Draw mean and range of the KS statistic of each layer; return the matplotlib axes."""
        if ax is None:
            try:
                from matplotlib import pyplot as plt
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(
                    "plots need matplotlib; pip install matplotlib, or 'qact[bench]'"
                ) from error
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


def drift(model: nn.Module, batches: Tensor | Iterable[Any] | None = None) -> Drift:
    """Report per QAct layer how far the present context is from the stored one.

    The present context is that of ``batches``, passed through the model with stored contexts, so a
    layer's drift is that of its own inputs. For a :class:`qact.adapt.Method` without ``batches`` it
    is what the method has made of the contexts, against those it started with: 0 for one that reads
    the batch and stores nothing.

    Small batches drift by chance: with ``n`` independent values KS is about ``0.87 / sqrt(n)``.

    Args:
        model: a model with QAct layers, or a method that adapts one. It stays as it is.
        batches: a batch (N, ...), or several, in the forms that :func:`qact.record` takes.

    Raises:
        TypeError: ``model`` is no module, or ``batches`` yields no tensors.
        ValueError: there is no QAct layer, or nothing to compare with.
        RuntimeError: a stored context has seen no data.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), QAct(4))
        >>> for _ in range(10):
        ...     _ = model(torch.randn(64, 3))
        >>> near = drift(model.eval(), torch.randn(512, 3)).worst.ks.mean()
        >>> far = drift(model, 3 * torch.randn(512, 3) + 1).worst.ks.mean()
        >>> bool(near < 0.1 < 0.2 < far)
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r} must be a torch.nn.Module")
    inner = model.model if isinstance(model, Method) else model
    layers = {name: m for name, m in inner.named_modules() if isinstance(m, QAct)}
    if not layers:
        raise ValueError(f"{type(inner).__name__} has no QAct layer, so no context to compare")
    for layer in layers.values():
        layer.context.require_data()
    stored = {name: _started(model, name, layer) for name, layer in layers.items()}
    if batches is not None:
        present = _seen(inner, layers, batches)
    elif isinstance(model, Method):
        present = {name: layer.context for name, layer in layers.items()}
    else:
        raise ValueError("batches=None: pass the batches whose contexts shall be compared")
    return Drift(tuple(_compared(name, stored[name], present[name]) for name in layers))


def _compared(name: str, stored: Context, present: Context) -> LayerDrift:
    tiny = torch.finfo(stored.std.dtype).tiny
    w1 = wasserstein(stored, present) / stored.std.clamp_min(tiny)
    return LayerDrift(name, kolmogorov(stored, present), w1)


def _started(model: nn.Module, name: str, layer: QAct) -> Context:
    """The context that a method began with, or the one that is stored."""
    context = layer.context.clone()
    if isinstance(model, Method):
        prefix = f"{name}.context." if name else "context."
        context.load_state_dict({k: model._start[prefix + k] for k in context.state_dict()})
    return context


@torch.no_grad()
def _seen(
    model: nn.Module, layers: dict[str, QAct], batches: Tensor | Iterable[Any]
) -> dict[str, Context]:
    """Contexts of what reaches each layer; values that are not finite are left out by channel."""
    found = {name: layer.context.clone().decay(0.0) for name, layer in layers.items()}
    with evaluating(model), adapting(model, "running"), hooking(model) as hooks:
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_pre_hook(_collector(found[name])))
        for batch in batches_of(batches):
            call(model, batch)
    if any(context.is_empty for context in found.values()):
        raise ValueError("batches hold nothing finite that reaches every QAct layer")
    return found


def _collector(context: Context) -> Any:
    seen = 0

    def collect(module: Any, args: tuple[Tensor, ...]) -> None:
        nonlocal seen
        seen += 1
        observed = eager.observe(fold(args[0], module.dim), module.rule, context.bins)
        context.batches.fill_(seen - 1)  # a plain mean over the batches
        context.follow(observed, None)

    return collect
