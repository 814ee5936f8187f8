"""The report's table of published numbers, with our rows under them."""

from __future__ import annotations

from html import escape

from qact.bench.report.markup import note, section
from qact.bench.report.published import COLUMNS, NOTE, misfit, ours, published
from qact.bench.report.summary import Summary


def with_published(summary: Summary) -> str:
    """Return the table; empty where data or protocol do not fit."""
    if misfit(summary) is not None:
        return ""
    found = published(summary.results.recipe.data.name, summary.corruptions)
    body = "".join(
        _row((p.method, p.model, f"{p.regime} ({p.source})", *p.numbers())) for p in found
    )
    body += "".join(_row(row, ' class="control"') for row in ours(summary))
    words = "".join(f'<th class="words">{t}</th>' for t in ("", "network", "test images serve for"))
    top = words + "".join(f"<th>{title}</th>" for title in COLUMNS)
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    title = "Published accuracy, %, over the same corruptions; ours"
    return section(title, f'{note(NOTE)}<div class="wide">{table}</div>')


def _row(cells: tuple[str, ...], kind: str = "") -> str:
    method, model, regime, *numbers = (escape(cell) for cell in cells)
    words = "".join(f'<td class="words">{text}</td>' for text in (model, regime))
    return f"<tr{kind}><th>{method}</th>{words}{''.join(f'<td>{n}</td>' for n in numbers)}</tr>"
