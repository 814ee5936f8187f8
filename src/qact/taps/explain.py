"""`explain_drift`: which layer of a model costs accuracy under a shift, by putting it right.

How far a layer's context has moved says where a shift is seen, not where it hurts. So each layer in
turn is given back what it has on clean data, and what that brings back is measured.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qact import checks
from qact.recalibrate import by_rank
from qact.statistics.distance import kolmogorov
from qact.surgery import Where, evaluating
from qact.taps.block import Changing, Visit
from qact.taps.classifier import Scores, labelled, logits_of, scored
from qact.taps.patch import patch
from qact.taps.report import NAN, DriftReport, Effect
from qact.taps.taps import Tap, tap

RESTORE = ("activations", "context")
Pair = tuple[Any, Any, Tensor]  # a clean batch, a shifted one, and their labels


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
