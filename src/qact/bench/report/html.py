"""``report.html``: one page that can be mailed; no scripts, no fonts, no network."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from pathlib import Path

from rich.console import Console

from qact.bench.errors import BenchError
from qact.bench.report import compared, expenses, figures, numbers, provenance, sections, selective
from qact.bench.report.markup import note
from qact.bench.report.published import print_published
from qact.bench.report.ranking import FEW, drawn, print_ranking
from qact.bench.report.stream_numbers import by_stream
from qact.bench.report.stream_table import print_streams
from qact.bench.report.streams import Streamed
from qact.bench.report.summary import Summary
from qact.bench.report.terminal import print_summary
from qact.bench.store.files import write_atomically

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def print_all(summary: Summary, console: Console) -> None:
    """Print severity by severity what fits on a screen; of more activations, the ranking."""
    streamed = Streamed(summary.results)
    if _over_severity(summary, streamed):
        few = len(summary.activations) <= FEW
        (print_summary if few else print_ranking)(summary, console)
    print_streams(streamed, console)
    print_published(summary, console)


def _over_severity(summary: Summary, streamed: Streamed) -> bool:
    """Whether there is something to show over severity that the table of streams has not."""
    return bool(summary.methods) and (len(summary.severities) > 1 or not streamed.columns)


def write_report(summary: Summary, folder: Path) -> Path:
    """Write ``report.html`` and ``curves.svg`` for the rows that exist; return the page's path."""
    path = folder / "report.html"
    write_atomically(path, render(summary).encode())
    write_atomically(folder / "curves.svg", picture(summary).encode())
    return path


def picture(summary: Summary) -> str:
    """Return the curves over severity as an image that stands alone, with the page's colours."""
    colours = _style().split("* {")[0]
    figure = figures.curves(drawn(summary))
    head, body = figure.split(">", 1)
    return f"{head}><style>{colours} svg {{ color: var(--ink); }}</style>{body}"


def _style() -> str:
    return (files("qact.bench.report") / "templates" / "report.css").read_text(encoding="utf-8")


def _first(summary: Summary) -> tuple[str, ...]:
    """Return what the bench is about: accuracy over severity, by corruption, against controls."""
    shown = drawn(summary)
    return (
        sections.findings(summary),
        _choice(summary, shown),
        sections.severity_curves(shown),
        numbers.by_severity(summary),
        numbers.by_corruption(summary),
        numbers.against_controls(summary),
    )


def _then(shown: Summary) -> tuple[str, ...]:
    return sections.reliability(shown), selective.risk_section(shown)


def _choice(summary: Summary, shown: Summary) -> str:
    text = ""
    if len(shown.activations) < len(summary.activations):
        text += (
            f"The figures show {len(shown.activations)} of the {len(summary.activations)} "
            "activations: QAct's own, ReLU, and the best of the others. "
        )
    if len(shown.adaptations) < len(summary.adaptations):
        text += f"The figures show the adaptations {', '.join(shown.adaptations)}. "
    return note(f"{text}The tables have all.") if text else ""


def render(summary: Summary) -> str:
    """Return the page as text; everything that comes from a file or a user is escaped.

    Raises:
        BenchError: there are no rows yet.
    """
    streamed = Streamed(summary.results)
    if not (summary.methods or streamed.columns):
        raise BenchError("there are no measurements to report yet")
    recipe = summary.results.recipe
    title = f"{recipe.data.name}, {recipe.model.name}: activations under distribution shift"
    over = _over_severity(summary, streamed)
    parts = (
        sections.head(summary, title),
        *(_first(summary) if over else ()),
        by_stream(streamed),
        compared.with_published(summary),
        *(_then(drawn(summary)) if over else ()),
        expenses.costs(summary),
        provenance.how(summary),
    )
    body = "\n".join(part for part in parts if part)
    return _PAGE.format(title=escape(title), style=_style(), body=body)
