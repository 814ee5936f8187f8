"""The few pieces of HTML that every section of the report is made of; text is escaped here."""

from __future__ import annotations

from html import escape

from qact.bench.report.stat import Stat
from qact.bench.report.summary import Method, Summary


def section(title: str, content: str) -> str:
    """Return a titled section around finished HTML."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def figure(svg: str, caption: str) -> str:
    """Return a figure around an SVG element."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def note(text: str) -> str:
    """Return a small paragraph."""
    return f'<p class="note">{escape(text)}</p>'


def terms(entries: dict[str, str]) -> str:
    """Return a list of terms (text) and what they mean (finished HTML)."""
    listed = "".join(f"<dt>{escape(term)}</dt><dd>{html}</dd>" for term, html in entries.items())
    return f"<dl>{listed}</dl>"


def code(text: str) -> str:
    """Return text in the font of commands."""
    return f"<code>{escape(text)}</code>"


def key(summary: Summary, activation: str) -> str:
    """Return the activation's name behind a dot of its colour."""
    index = summary.activations.index(activation) % 8
    return f'<span class="key" style="background:var(--series-{index})"></span>{escape(activation)}'


def name_of(method: Method) -> str:
    """Return ``"relu, batch-200"``."""
    return f"{method[0]}, {method[1]}"


def number(stat: Stat | None, scale: float, digits: int) -> str:
    """Return the mean and, smaller, the deviation; a dash for what is not measured."""
    if stat is None:
        return "–"
    mean = f"{scale * stat.mean:.{digits}f}"
    if stat.sd is None:
        return mean
    return f'{mean}<span class="sd"> ±{scale * stat.sd:.{digits}f}</span>'


def signed(share: float) -> str:
    """Return a share as points with its sign, with a minus that is as long as the plus.

    Example:
        >>> signed(0.0123)
        '+1.2'
    """
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")
