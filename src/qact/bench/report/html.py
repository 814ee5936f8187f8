"""``report.html``: one page that can be mailed; no scripts, no fonts, no network.

What is said stands in ``templates/report.html``, the tables come from :mod:`tables`, the pictures
from :mod:`figures`. Everything that comes from a file or a user is escaped by the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qact.bench.errors import BenchError
from qact.bench.measure.drift import load_drift
from qact.bench.recipe.adaptations import describe
from qact.bench.recipe.training import Training
from qact.bench.report import figures, tables
from qact.bench.report.published import NOTE
from qact.bench.report.ranking import drawn
from qact.bench.report.streams import Streamed, legend, over_severity
from qact.bench.report.summary import Method, Summary
from qact.bench.report.text import counted, seeds, signed
from qact.bench.store.files import write_atomically

_STREAMS = {
    "iid": "images of one corruption and severity, shuffled",
    "sorted": "the same, sorted by class",
    "dirichlet": "the same, classes correlated in time",
    "imbalanced": "the same, the most frequent class ten times the rarest",
    "garbage": "the same, with batches of garbage between",
    "mixed": "all corruptions in every batch",
    "continual": "one corruption after the other, without a new start",
    "recurring": "the same, three times round",
    "gradual": "within each corruption the severity rises from 1 to 5",
}
_KEPT = {
    "last": "last epoch's weights",
    "best": "weights of the epoch that did best on validation images",
}
_SAID = {"epochs", "batch", "optimizer", "lr", "weight_decay", "loss", "label_smoothing"} | {
    "schedule",
    "select",
}


def write_report(summary: Summary, folder: Path) -> Path:
    """Write ``report.html`` and ``curves.svg`` for the rows that exist; return the page's path."""
    path = folder / "report.html"
    write_atomically(path, render(summary, load_drift(folder)).encode())
    write_atomically(folder / "curves.svg", picture(summary).encode())
    return path


def picture(summary: Summary) -> str:
    """Return the curves over severity as an image that stands alone, with the page's colours."""
    colours = style().split("* {")[0]
    head, body = figures.curves(drawn(summary)).split(">", 1)
    return f"{head}><style>{colours} svg {{ color: var(--ink); }}</style>{body}"


def render(summary: Summary, drift: Sequence[dict[str, Any]] = ()) -> str:
    """Return the page as text; ``drift`` are the rows of ``qact bench --drift``.

    Raises:
        BenchError: there are no rows yet.
    """
    streamed = Streamed(summary.results)
    if not (summary.methods or streamed.columns):
        raise BenchError("there are no measurements to report yet")
    recipe = summary.results.recipe
    return (
        templates()
        .get_template("report.html")
        .render(
            style=Markup(style()),
            title=f"{recipe.data.name}, {recipe.model.name}: activations under distribution shift",
            lead=_lead(summary),
            over=_over(summary) if over_severity(summary, streamed) else None,
            streams=list(tables.by_stream(streamed)),
            legend=legend(streamed) if streamed.columns else "",
            published=tables.with_published(summary),
            published_note=NOTE,
            drift=list(tables.by_drift(list(drift))),
            costs=tables.costs(summary),
            leaking=summary.leaking(),
            facts=_facts(summary),
            activations={name: summary.about(name) for name in summary.activations},
            command=summary.results.environment.get("command", "?"),
        )
    )


@lru_cache(maxsize=2)
def templates(package: str = "qact.bench.report") -> Environment:
    """Return what renders the templates of a package, with the macros of this one; it escapes."""
    loaders = [PackageLoader(name) for name in dict.fromkeys((package, "qact.bench.report"))]
    return Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def style() -> str:
    """Return the style sheet of every page."""
    return (files("qact.bench.report") / "templates" / "report.css").read_text(encoding="utf-8")


def _lead(summary: Summary) -> dict[str, Any]:
    """Return what the first sentence says."""
    recipe, results = summary.results.recipe, summary.results
    return {
        "activations": len(summary.activations),
        "seeds": seeds(*summary.spread()),
        "images": recipe.shift.images or results.environment.get("images", {}).get("test", "?"),
        "corruptions": counted(summary.corruptions, "corruption"),
        "owed": len(recipe.cells()) - len(results.cells),
        "cells": len(recipe.cells()),
    }


def _over(summary: Summary) -> dict[str, Any]:
    """Return what is shown over severity and by corruption."""
    shown = drawn(summary)
    ends = sorted({shown.severities[0], shown.severities[-1]})
    measured = all(shown.risk(m, s) is not None for m in shown.methods for s in ends)
    return {
        "findings": _findings(summary),
        "all": summary,
        "shown": shown,
        "several": summary.spread()[1] > 1,
        "curves": Markup(figures.curves(shown)),
        "adaptations": {name: describe(name) for name in shown.adaptations},
        "by_severity": tables.by_severity(summary),
        "by_corruption": tables.by_corruption(summary),
        "against": tables.against_controls(summary),
        "diagrams": [_diagram(shown, severity) for severity in reversed(ends)],
        "risks": Markup(figures.risks(shown, ends)) if measured else None,
    }


def _findings(summary: Summary) -> list[tuple[str, str]]:
    """Return the strongest control and how the best adaptation of the others stands to it."""
    control = summary.control()
    best = summary.shifted(control, "accuracy") if control else None
    if control is None or best is None:
        return []
    spread = "" if best.sd is None else f" ± {100 * best.sd:.1f}"
    found = [(f"{100 * best.mean:.1f}%{spread}", f"strongest control: {', '.join(control)}")]
    for name in (name for name in summary.activations if not summary.is_control(name)):
        found += _gap(summary, [method for method in summary.methods if method[0] == name])
    return found


def _gap(summary: Summary, methods: list[Method]) -> list[tuple[str, str]]:
    gaps = {method: summary.gap(method, "accuracy") for method in methods}
    known = {method: gap for method, gap in gaps.items() if gap is not None}
    if not known:
        return []
    method, gap = max(known.items(), key=lambda item: item[1].mean)
    text = f"points for {', '.join(method)}, against it"
    if (ends := gap.interval()) is not None:
        text += f"; 95% interval {signed(ends[0])} to {signed(ends[1])}"
    return [(signed(gap.mean), text)]


def _diagram(summary: Summary, severity: int) -> dict[str, Any]:
    count = max(sum(b[0] for b in summary.bins(m, severity)) for m in summary.methods)
    return {
        "figure": Markup(figures.diagrams(summary, severity)),
        "severity": severity,
        "count": count,
    }


def _facts(summary: Summary) -> dict[str, str]:
    """Return what is needed to repeat the numbers."""
    recipe, environment = summary.results.recipe, summary.results.environment
    shape = "x".join(map(str, environment.get("shape", ())))
    images = ", ".join(f"{n} {part}" for part, n in environment.get("images", {}).items())
    streams = dict.fromkeys(name for shift in recipe.shifts() for name in shift.streams)
    return {
        "data": f"{recipe.data.name}, {shape} (channels x height x width); {images}",
        "network": f"{recipe.model.name}, width x{recipe.model.width_multiplier:g}",
        "training": _trained(recipe.training, " or ".join(recipe.every_loss())),
        "seeds": ", ".join(map(str, recipe.seeds)),
        "corruptions": ", ".join(recipe.shift.corruptions),
        "streams": "; ".join(f"{name}: {_STREAMS[name]}" for name in streams),
        "versions": ", ".join(f"{k} {v}" for k, v in environment.get("versions", {}).items()),
        "machine": (
            f"{environment.get('machine', '?')}; {environment.get('jobs', '?')} processes of one "
            f"thread; {environment.get('seconds', 0):.0f} s in all"
        ),
    }


def _trained(training: Training, losses: str) -> str:
    further = (f", {k} {v}" for k, v in training.identity().items() if k not in _SAID)
    return (
        f"{training.epochs} epochs, batch {training.batch}, {training.optimizer}, "
        f"{training.schedule.replace('_', ' ')} to {training.lr:g}, weight decay "
        f"{training.weight_decay:g}, {losses}, label smoothing "
        f"{training.label_smoothing:g}{''.join(further)}; the same for every activation; "
        f"the {_KEPT[training.select]}; nothing chosen on test images"
    )
