"""Every dotted name of ours that README, docs and CONTRIBUTING mention is there."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import qact

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAME = re.compile(r"(?<![\w./\-\[])qact(?:\.[A-Za-z_]\w*)+")
OPTIONAL = {"qact.lightning": "lightning", "qact.integrations.torchmetrics": "torchmetrics"}


def resolved(name: str) -> object:
    """The module, class, function or attribute of that name.

    Raises:
        AttributeError: there is none.
    """
    parts = name.split(".")
    found: object = qact
    for count, part in enumerate(parts[1:], 2):
        try:
            found = getattr(found, part)
        except AttributeError:
            try:
                found = import_module(".".join(parts[:count]))
            except ModuleNotFoundError:
                raise AttributeError(f"{name}: nothing is called {part!r}") from None
    return found


def names(page: Path) -> set[str]:
    entries = set(qact.list_activations())
    return set(NAME.findall(page.read_text(encoding="utf-8"))) - entries


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_names_resolve(page):
    for name in names(page):
        missing = [o for prefix, o in OPTIONAL.items() if name.startswith(prefix)]
        if all(map(find_spec, missing)):
            assert resolved(name) is not None, name


def test_names_are_found_and_a_wrong_one_fails():
    assert {"qact.QAct", "qact.adapting", "qact.adapt.methods"} <= names(ROOT / "README.md")
    for wrong in ("qact.QuAct", "qact.shift.nothing", "qact.nowhere.at_all"):
        with pytest.raises(AttributeError):
            resolved(wrong)


def test_the_files_that_the_design_names_are_there():
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = text[text.index("| asked | file |") : text.index("The core, up to")]
    named = re.findall(r"`([\w/]+\.py)`", table)
    assert len(named) > 40
    assert [file for file in named if not (ROOT / "src" / "qact" / file).is_file()] == []
