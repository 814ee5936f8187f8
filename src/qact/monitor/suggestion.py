"""What to do about an alarm: an action with its reason, from what the alarm has seen.

Statistics and contexts put right what changes how images *look*: that moves the input and the first
layers. Where these are sound and later ones have moved, images show other things than they did, and
nothing that is stored is wrong. How images come decides the rest: batch statistics need calls that
are large, shuffled and of one kind.
"""

from __future__ import annotations

from dataclasses import dataclass

from qact import checks
from qact.monitor.accuracy import estimate
from qact.monitor.reference import Reference, Verdict
from qact.monitor.signals import CONFIDENCE, appearance
from qact.monitor.window import Window

ALIKE = 0.1  # intraclass correlation from which calls count as sorted
SPREAD = 1.5  # times the reference's variance between images, from which conditions are mixed
FALLEN = 0.05  # of the estimated accuracy, from which it counts
SMALL = 16  # images of a call below which its statistics are mostly noise
ACTIONS = {
    "source": "serve the model as it is",
    "batch": 'adapt with qact.adapt.create("batch", model)',
    "safe": 'adapt with qact.adapt.create("safe", model)',
    "recalibrate": 'record the source, then serve in qact.recalibrated(model, "running")',
    "retrain": "label some of the new images and train on them",
}


@dataclass(frozen=True)
class Suggestion:
    """What to do, and why.

    Args:
        action: one of ``ACTIONS``.
        reason: a sentence.
        accuracy: of the model as it is, estimated, by name of the estimate; empty without labels.
    """

    action: str
    reason: str
    accuracy: dict[str, float]

    @property
    def advice(self) -> str:
        """The action as a phrase."""
        return ACTIONS[self.action]


def suggest(
    verdict: Verdict,
    window: Window | None = None,
    reference: Reference | None = None,
    *,
    rate: float = 0.01,
) -> Suggestion:
    """Suggest what to do about a window that was judged.

    In this order: nothing moved, ``"source"``; the input did not, ``"source"`` if the first layer
    and confidence are sound too, ``"retrain"`` if the estimated accuracy has fallen by 5 points or
    is not known, else ``"safe"``; calls are sorted, conditions mixed, or confidence is sound,
    ``"safe"``; calls are small, ``"recalibrate"``; else ``"batch"``.

    Args:
        verdict: of the window.
        window: for an estimate of its accuracy.
        reference: with labels, for the same.
        rate: p-values up to it count as moved.

    Raises:
        TypeError: no verdict.
        ValueError: a bad ``rate``.

    Example:
        >>> moved = {"input": 0.001, "bn1": 0.001, "logits": 0.001, "confidence": 0.002}
        >>> suggest(Verdict(256, moved, moved, 0.001, 0.0, batch=64, alike=0.0, spread=1.0)).action
        'batch'
        >>> suggest(Verdict(256, moved, moved, 0.001, 0.0, batch=64, alike=0.4, spread=1.0)).action
        'safe'
    """
    checks.instance("verdict", verdict, Verdict, "a qact.monitor.Verdict, which a reference gives")
    checks.number("rate", rate, "a share in (0, 0.5]", 0, 0.5)
    accuracy, fallen = {}, None
    if window is not None and window.images and reference is not None and len(reference.hits):
        accuracy = estimate(reference, window)
        fallen = float(reference.hits.double().mean()) - min(accuracy.values())
    action, reason = _decided(verdict, fallen, rate)
    if accuracy and verdict.p <= rate:
        reason += f"; estimated accuracy {100 * min(accuracy.values()):.0f}%, if not less"
    return Suggestion(action, reason, accuracy)


def _decided(verdict: Verdict, fallen: float | None, rate: float) -> tuple[str, str]:
    if not verdict.images:
        return "source", "no image was finite: mend what feeds the model"
    if verdict.p > rate:
        return "source", f"nothing has moved (p = {verdict.p:.2g})"
    looks = appearance(list(verdict.p_values))
    sure = verdict.p_values.get(CONFIDENCE, 0.0) > rate
    moved = [name for name in looks if verdict.p_values[name] <= rate]
    if looks[0] not in moved:
        if not moved and sure:
            return (
                "source",
                f"{' and '.join(looks)} and confidence are sound: other classes?",
            )
        if fallen is None or fallen > FALLEN:
            return (
                "retrain",
                f"{looks[0]} is sound, {verdict.worst} moved: other content",
            )
        return "safe", f"{looks[0]} is sound, {verdict.worst} moved, accuracy is much as it was"
    if (verdict.alike or 0.0) > ALIKE:
        return "safe", f"images of one call are alike (correlation {verdict.alike:.2f})"
    if (verdict.spread or 1.0) > SPREAD:
        return "safe", f"mixed conditions: images vary {verdict.spread:.1f} times as much as before"
    if sure:
        return "safe", f"{' and '.join(moved)} moved, confidence did not: there is little to gain"
    if verdict.batch is not None and verdict.batch < SMALL:
        return "recalibrate", f"calls of {verdict.batch:.0f} images are too few for statistics"
    return "batch", "one shift, in large shuffled calls"
