"""Tables for notebooks: HTML that takes its colours from the page, light or dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# Cells have the notebook's own text colour; lines are the same colour, thinned.
_CELL = "padding:.15em .8em;border-bottom:1px solid color-mix(in srgb,currentColor 20%,transparent)"
Rows = Sequence[Sequence[str]]


def table(caption: str, heads: Sequence[str], rows: Rows) -> str:
    """One table, which scrolls by itself where it is too wide; every text is escaped.

    Columns of numbers stand at the right.

    >>> "&lt;b&gt;" in table("a", ["x"], [["<b>"]])
    True
    """
    columns = zip(*rows, strict=True) if rows else ((head,) for head in heads)
    sides = ["right" if all(map(_number, column)) else "left" for column in columns]
    lines = [_line("th", heads, sides), *(_line("td", row, sides) for row in rows)]
    title = f'<caption style="text-align:left;font-weight:bold">{escape(caption)}</caption>'
    whole = f'<table style="border-collapse:collapse">{title}{"".join(lines)}</table>'
    return f'<div style="overflow-x:auto">{whole}</div>'


def _line(tag: str, cells: Sequence[str], sides: Sequence[str]) -> str:
    pairs = zip(cells, sides, strict=True)
    inner = (f'<{tag} style="text-align:{s};{_CELL}">{escape(c)}</{tag}>' for c, s in pairs)
    return f'<tr style="background:none">{"".join(inner)}</tr>'


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
