"""`explain_drift`: which layer of a model costs accuracy under a shift, by putting it right.

How far a layer's context has moved says where a shift is seen, not where it hurts. So each layer in
turn is given back what it has on clean data, and what that brings back is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact import checks, extras, notebook
from qact.calibration import accuracy, calibration_error
from qact.recalibrate import by_rank
from qact.statistics.distance import kolmogorov
from qact.surgery import Where, call, evaluating
from qact.surgery import batches as batches_of
from qact.taps.block import Changing, Tap, Visit, tap
from qact.taps.patch import patch

RESTORE = ("activations", "context")
HEADS = ("layer", "KS", "accuracy", "loss", "ECE", "of the loss")
NAN = float("nan")


@dataclass(frozen=True)
class Scores:
    """Of predictions: accuracy and expected calibration error in [0, 1], mean loss in nats."""

    accuracy: float
    loss: float
    ece: float


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


def explain_drift(
    model: nn.Module,
    clean: Any,
    shifted: Any,
    where: Where = None,
    *,
    restore: str = "activations",
    gradient: bool = False,
) -> DriftReport:
    """Say per layer how far its context moves under a shift, and what putting it right brings back.

    Layer by layer, the shifted run is given what the layer has in the clean one:

    - ``restore="activations"``: for each image its clean activation (activation patching, arXiv
      2309.16042). A layer through which everything passes then restores all; in a network with
      residual sums, a norm inside a branch restores its branch.
    - ``restore="context"``: values keep their rank in the shifted batch and become the clean
      context's value of that rank, as if :func:`qact.recalibrated` had this layer alone.

    ``gradient=True`` foretells the loss by ``(a_clean - a_shifted) . dL/da`` (attribution patching,
    Nanda 2023; Kramár et al. 2024, arXiv 2403.00745): two passes forward and one backward for all
    layers together, where measuring takes a pass for each.

    Args:
        model: a classifier; it stays as it is, and runs in ``eval()``.
        clean: batches of (images, labels), or one.
        shifted: the same samples in the same order, under a shift.
        where: places as in :func:`qact.tap`; None is every norm and QAct layer.
        restore: ``"activations"`` or ``"context"``.
        gradient: foretell instead of measuring; of ``"activations"`` alone.

    Raises:
        ValueError: an option is unknown, the two sides are not of the same samples, or a value is
            not finite. RuntimeError: a place is never run.

    Example:
        >>> import qact
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        >>> x, y = torch.randn(64, 4), torch.arange(64) % 3
        >>> report = qact.explain_drift(net, (x, y), (2 * x + 1, y))
        >>> report.layers[0].cut, round(report.share(report.layers[0]), 3)
        (True, 1.0)
    """
    checks.choice("restore", restore, RESTORE)
    if checks.flag("gradient", gradient) and restore != "activations":
        raise ValueError(f"gradient=True foretells restore='activations', not {restore!r}")
    pairs, tapped = _paired(clean, shifted), tap(model, where)
    with evaluating(model):
        if gradient:
            return _foretold(model, tapped, pairs)
        return _measured(model, tapped, pairs, restore)


Pair = tuple[Any, Any, Tensor]  # a clean batch, a shifted one, and their labels


@torch.no_grad()
def _measured(model: nn.Module, tapped: Tap, pairs: list[Pair], restore: str) -> DriftReport:
    """One pass for each layer."""
    run = _Runs(model, tapped, pairs)
    for a, b, _ in pairs:
        run.clean(a)
        run.shifted(b)
    found: dict[str, list[Tensor]] = {name: [] for name in tapped.names}
    for a, b, _ in pairs:
        seen = tapped.read()
        if restore == "activations":
            with seen:
                logits_of(model, a)
        for name, outputs in found.items():
            whole = restore == "activations"
            block = patch(model, {name: seen[name]}) if whole else run.mapping(name)
            with block:
                outputs.append(logits_of(model, b))
    restored = {name: torch.cat(outputs) for name, outputs in found.items()}
    scores = {name: scored(logits, run.labels) for name, logits in restored.items()}
    cut = {n for n, logits in restored.items() if restore == "activations" and run.same(logits)}
    return run.report(scores, {n: run.base.loss - s.loss for n, s in scores.items()}, cut)


def _foretold(model: nn.Module, tapped: Tap, pairs: list[Pair]) -> DriftReport:
    """Two passes forward and one backward for all layers."""
    run = _Runs(model, tapped, pairs)
    gains = dict.fromkeys(tapped.names, 0.0)
    for a, b, y in pairs:
        with torch.no_grad(), tapped as clean:
            run.clean(a)
        shifted: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in tapped.names}

        def offset(z: Tensor, visit: Visit, kept: Any = shifted) -> Tensor:
            zero = torch.zeros_like(z, requires_grad=True)  # its gradient is that of the activation
            kept[visit.name].append((z.detach(), zero))
            return z + zero

        with torch.enable_grad(), tapped.change(offset):
            loss = F.cross_entropy(run.shifted(b), y, reduction="sum")
        flat = [zero for calls in shifted.values() for _, zero in calls]
        slopes = iter(torch.autograd.grad(loss, flat, allow_unused=True))
        for name, calls in shifted.items():
            for (z, _), before in zip(calls, clean.calls(name), strict=True):
                slope = next(slopes)
                if slope is not None:
                    gains[name] += float(((z - before) * slope).double().sum()) / len(run.labels)
    return run.report(dict.fromkeys(gains, Scores(NAN, NAN, NAN)), gains, set())


class _Runs:
    """The clean and the shifted run: their contexts at each place, and their logits."""

    def __init__(self, model: nn.Module, tapped: Tap, pairs: list[Pair]) -> None:
        self._model, self._tapped = model, tapped
        self.labels = torch.cat([y for _, _, y in pairs])
        self._contexts = tapped.observe(), tapped.observe()
        self._logits: tuple[list[Tensor], list[Tensor]] = ([], [])

    def clean(self, batch: Any) -> Tensor:
        return self._run(0, batch)

    def shifted(self, batch: Any) -> Tensor:
        return self._run(1, batch)

    def _run(self, side: int, batch: Any) -> Tensor:
        with self._contexts[side]:
            logits = logits_of(self._model, batch)
        self._logits[side].append(logits.detach())
        return logits

    @property
    def base(self) -> Scores:
        return scored(torch.cat(self._logits[1]), self.labels)

    def same(self, logits: Tensor) -> bool:
        return torch.equal(logits, torch.cat(self._logits[0]))

    def mapping(self, name: str) -> Changing:
        """A block in which one layer's values are mapped by rank to its clean context."""
        source = self._contexts[0][name]

        def change(z: Tensor, visit: Visit) -> Tensor:
            return by_rank(z, source, dim=visit.place.channel(z))

        return tap(self._model, name).change(change)

    def report(
        self, scores: dict[str, Scores], gains: dict[str, float], cut: set[str]
    ) -> DriftReport:
        before, after = self._contexts
        layers = tuple(
            Effect(
                name,
                float(kolmogorov(before[name], after[name]).mean()),
                scores[name],
                gains[name],
                name in cut,
            )
            for name in scores
        )
        return DriftReport(scored(torch.cat(self._logits[0]), self.labels), self.base, layers)


def logits_of(model: nn.Module, batch: Any) -> Tensor:
    """What ``model`` says of a batch, (N, classes); of named outputs ``logits``.

    Raises:
        TypeError: it returns no logits. ValueError: one of them is not finite.
    """
    output = call(model, batch)
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor) or output.dim() != 2:
        shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(f"the model returns {shown}; it must return logits (N, classes)")
    if not bool(torch.isfinite(output).all()):
        raise ValueError(f"the model returns {output[~torch.isfinite(output)][0].item()}")
    return output


def scored(logits: Tensor, labels: Tensor) -> Scores:
    """Accuracy, mean loss and expected calibration error."""
    wide = logits.double()
    probs, labels = wide.softmax(1), labels.to(wide.device)
    loss = float(F.cross_entropy(wide, labels))
    return Scores(accuracy(probs, labels), loss, calibration_error(probs, labels))


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


def _paired(clean: Any, shifted: Any) -> list[Pair]:
    sides = [labelled(side, name) for side, name in ((clean, "clean"), (shifted, "shifted"))]
    if len(sides[0]) != len(sides[1]):
        raise ValueError(f"clean has {len(sides[0])} batches and shifted {len(sides[1])}")
    pairs = []
    for place, ((a, y), (b, z)) in enumerate(zip(*sides, strict=True)):
        if y.shape != z.shape or not torch.equal(y, z):
            raise ValueError(f"batch {place} of clean and shifted have other labels: not the same")
        pairs.append((a, b, y))
    return pairs


def labelled(given: Any, name: str) -> list[tuple[Any, Tensor]]:
    """Batches with their labels; (images, labels) alone is one batch."""
    single = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Tensor)
    found = []
    for batch in [given] if single else batches_of(given, name):
        labels = batch.get("labels") if isinstance(batch, Mapping) else None
        if isinstance(batch, tuple | list) and len(batch) > 1:
            labels = batch[1]
        if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
            raise TypeError(f"{name} must be batches of (images, labels), labels integers (N,)")
        found.append((batch, labels))
    if not found:
        raise ValueError(f"{name} is empty")
    return found


def _shown(scores: Scores, base: Scores | None = None, gain: float = 0.0) -> tuple[str, ...]:
    """Scores as text: as they are, or as what has changed against a base."""
    if base is None:
        return f"{100 * scores.accuracy:.1f}", f"{scores.loss:.3f}", f"{100 * scores.ece:.1f}"
    right, error = (
        100 * (a - b) for a, b in ((scores.accuracy, base.accuracy), (scores.ece, base.ece))
    )
    blank = right != right
    return "" if blank else f"{right:+.1f}", f"{-gain:+.3f}", "" if blank else f"{error:+.1f}"
