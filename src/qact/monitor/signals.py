"""What of a model is watched: its input, some layers, the logits and their confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qact.nn.layer import QAct
from qact.nn.normed import NormedQAct
from qact.recalibrate.sites import Site
from qact.surgery import Where, channels, is_norm, outermost, select
from qact.surgery.where import FORMS

INPUT, LOGITS, CONFIDENCE = RESERVED = ("input", "logits", "confidence")
MOST = 8  # layers, if none are asked for: more cost more and see the same drift

Quantile = (QAct, NormedQAct)


def appearance(signals: Sequence[str]) -> list[str]:
    """Of signals in order the first, in which images look alike whatever they show.

    The input, if the model takes numbers, and the first layer.
    """
    layers = [name for name in signals if name not in RESERVED]
    return [name for name in signals if name == INPUT] + layers[:1]


class Layer(Site):
    """A watched layer: the input of a QAct, the output of anything else."""

    @property
    def place(self) -> tuple[nn.Module, str]:
        """The module and side where the watched values pass."""
        return (self.module, "input") if isinstance(self.module, Quantile) else super().place


def layers(model: nn.Module, where: Where = None) -> list[Layer]:
    """The layers that ``where`` chooses; None takes QAct layers, or else norms, at most `MOST`.

    Raises:
        ValueError: no layer fits. TypeError: the channels of one are not known beforehand.
    """
    ours = outermost(model, lambda module: isinstance(module, Quantile))
    tops = [module for _, module in ours]
    inside = {part for top in tops for part in top.modules()}.difference(tops)

    def kind(module: nn.Module) -> bool:
        return module not in inside and (
            module in tops or (is_norm(module) and (where is not None or not tops))
        )

    found = [(n, m) for n, m in select(model, where, kind, channels) if m not in inside]
    if not found:
        what = "has no QAct or norm layer" if where is None else f"has no layer {where!r}"
        raise ValueError(f"{type(model).__name__} {what}. Choose with where=: {FORMS}")
    if where is None and len(found) > MOST:  # evenly, first and last among them
        found = [found[round(i * (len(found) - 1) / (MOST - 1))] for i in range(MOST)]
    for name, _ in found:
        if name in RESERVED:
            raise ValueError(f"a layer is called {name!r}, as a signal of the whole model is")
    return [Layer(name, module, *_channels(name, module)) for name, module in found]


def _channels(name: str, module: Any) -> tuple[int, int]:
    inner = getattr(module, "quantile", module) if isinstance(module, NormedQAct) else module
    if isinstance(inner, QAct):
        return inner.num_features, inner.dim
    known = channels(module)
    if known is None:
        raise TypeError(
            f"{name!r} is a {type(module).__name__}, whose channels cannot be told; choose norms, "
            "QAct layers, convolutions or linear layers"
        )
    return known


@dataclass(frozen=True)
class Sampler:
    """Which rows of a batch and which positions of an image are looked at.

    Args:
        rows: indices into the batch, (n,).
        places: where to look, as shares of an image's positions: increasing in [0, 1), and each
            row's own, so that rows are independent (n, positions). None looks everywhere.
    """

    rows: Tensor
    places: Tensor | None

    @classmethod
    def drawn(cls, rows: Tensor, positions: int | None, generator: torch.Generator) -> Sampler:
        """One place drawn in each of ``positions`` equal parts of every image."""
        if positions is None:
            return cls(rows, None)
        jitter = torch.rand(
            len(rows), positions, generator=generator, dtype=torch.float64, device="cpu"
        )
        return cls(rows, (torch.arange(positions, device="cpu") + jitter) / positions)

    def take(self, z: Tensor, dim: int = 1) -> Tensor:
        """Of an activation (N, ...) with channels at ``dim``: (rows, C, positions) float32."""
        z = z.detach().movedim(dim, 1).flatten(2) if z.dim() > 2 else z.detach()[:, :, None]
        rows, length = self.rows.to(z.device), z.shape[2]
        if self.places is None or length <= self.places.shape[1]:
            return z.index_select(0, rows).float()
        place = (self.places.to(z.device) * length).long().clamp_max(length - 1)
        return z[rows[:, None], :, place].transpose(1, 2).float()
