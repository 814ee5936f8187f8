"""Formulas become MathML when the pages are built, so that they need no script and no network.

`pymdownx.arithmatex` finds the formulas (and leaves code alone); this hook converts them.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\s*(?:\\\((?P<inline>.*?)\\\)|\\\[(?P<block>.*?)\\\])\s*</\1>',
    re.DOTALL,
)
# Docstrings name things as Sphinx does; on the page the name alone is enough.
ROLE = re.compile(r":(?:class|func|meth|mod|attr):(?=<code>)")


def on_page_content(html: str, **_: Any) -> str:
    """Replace every formula of a page by MathML, and strip Sphinx roles."""
    return ROLE.sub("", FORMULA.sub(_mathml, html))


def _mathml(match: re.Match[str]) -> str:
    inline = match["inline"] is not None
    latex = unescape(match["inline"] if inline else match["block"]).strip()
    math = convert(latex, display="inline" if inline else "block")
    return math if inline else f'<div class="formula">{math}</div>'
