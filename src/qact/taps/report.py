"""The drift report: what each layer has to do with a shift, as a table and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qact import extras, notebook
from qact.taps.classifier import Scores

HEADS = ("layer", "KS", "accuracy", "loss", "ECE", "of the loss")
NAN = float("nan")


@dataclass(frozen=True)
class Effect:
    """What one layer has to do with a drift.

    Args:
        name: of the layer.
        ks: Kolmogorov-Smirnov distance of its contexts, clean and shifted, mean over channels.
        restored: the scores with this layer put right; not numbers where a gradient foretells them.
        gain: the loss that this takes away, in nats; foretold or measured.
        cut: whether everything passes here, so that putting it right is the clean run.
    """

    name: str
    ks: float
    restored: Scores
    gain: float
    cut: bool


@dataclass(frozen=True)
class DriftReport:
    """Layers in the order of the model; printed and in notebooks a table."""

    clean: Scores
    shifted: Scores
    layers: tuple[Effect, ...]

    @property
    def costliest(self) -> Effect:
        """The layer whose restoration takes most of the loss away, of those that are no cut."""
        return max(self._partial(), key=lambda layer: layer.gain)

    @property
    def furthest(self) -> Effect:
        """The layer whose context has moved furthest."""
        return max(self.layers, key=lambda layer: layer.ks)

    @property
    def correlation(self) -> float:
        """Spearman's rank correlation of distance and effect over the layers that are no cut."""
        some = self._partial()
        return spearman([layer.ks for layer in some], [layer.gain for layer in some])

    def share(self, layer: Effect) -> float:
        """Which share of the loss that the shift costs a layer brings back: 1 is the clean run."""
        gap = self.shifted.loss - self.clean.loss
        return layer.gain / gap if gap else NAN

    def _partial(self) -> list[Effect]:
        return [layer for layer in self.layers if not layer.cut] or list(self.layers)

    def _rows(self) -> list[tuple[str, ...]]:
        rows = [("clean", "", *_shown(self.clean), ""), ("shifted", "", *_shown(self.shifted), "")]
        for layer in self.layers:
            gained = _shown(layer.restored, self.shifted, layer.gain)
            name = f"{layer.name} *" if layer.cut else layer.name
            rows.append((name, f"{layer.ks:.3f}", *gained, f"{100 * self.share(layer):.0f}%"))
        return rows

    def _note(self) -> str:
        notes = [f"rank correlation of distance and effect: {self.correlation:.2f}"]
        if any(layer.cut for layer in self.layers):
            notes.append("* everything passes here: putting it right is the clean run")
        return "\n".join(notes)

    def __str__(self) -> str:
        rows = [HEADS, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, self._note()])

    def _repr_html_(self) -> str:
        """Shown by notebooks."""
        caption = "What each layer brings back, put right alone"
        return notebook.table(caption, HEADS, self._rows())

    def plot(self, ax: Any = None) -> Any:
        """Draw distance and effect of each layer; return the matplotlib axes."""
        if ax is None:
            with extras.needed("a plot", "bench"):
                from matplotlib import pyplot as plt
            ax = plt.subplots(layout="constrained")[1]
        place = range(len(self.layers))
        ax.bar(place, [self.share(a) for a in self.layers], alpha=0.5, label="of the loss")
        ax.plot(place, [layer.ks for layer in self.layers], "o", label="KS distance")
        ax.set_xticks(place, [layer.name for layer in self.layers], rotation=45, ha="right")
        ax.set(xlabel="layer put right", ylabel="share brought back, distance")
        ax.legend()
        return ax


def _shown(scores: Scores, base: Scores | None = None, gain: float = 0.0) -> tuple[str, ...]:
    """Scores as text: as they are, or as what has changed against a base."""
    if base is None:
        return f"{100 * scores.accuracy:.1f}", f"{scores.loss:.3f}", f"{100 * scores.ece:.1f}"
    right, error = (
        100 * (a - b) for a, b in ((scores.accuracy, base.accuracy), (scores.ece, base.ece))
    )
    blank = right != right
    return "" if blank else f"{right:+.1f}", f"{-gain:+.3f}", "" if blank else f"{error:+.1f}"


def spearman(a: list[float], b: list[float]) -> float:
    """Spearman's rank correlation, ties at their mean rank; not a number if one side is constant.

    >>> spearman([1, 2, 3, 4], [10, 30, 20, 40])
    0.8
    """
    x, y = (_ranks(torch.tensor(side, dtype=torch.float64)) for side in (a, b))
    x, y = x - x.mean(), y - y.mean()
    size = float(x.norm() * y.norm())
    return float(x @ y) / size if size else NAN


def _ranks(values: Tensor) -> Tensor:
    below = (values[:, None] > values).sum(1)
    return below + ((values[:, None] == values).sum(1) + 1) / 2
