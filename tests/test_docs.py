"""Every Python block of README.md and docs/ runs and prints what stands below it; links resolve."""

from __future__ import annotations

import ast
import contextlib
import gc
import io
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from qact.registry import Registry

ROOT = Path(__file__).parents[1]
ROOMS = (
    *("activations", "adapt", "calibration", "corruptions", "datasets", "losses", "models"),
    *("attention", "scores", "weights"),
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?[^)]*\)|(?:src|href)=\"([^\"]+)\"")
HEADING = re.compile(r"^#+[ \t]+(.+?)[ \t]*$", re.MULTILINE)


def run_page(page: Path) -> int:
    """Run the blocks of a page one after the other in one namespace; return how many there are.

    A ``text`` block that directly follows is what the block must print.
    """
    text = page.read_text(encoding="utf-8")
    blocks = list(FENCE.finditer(text))
    namespace: dict[str, object] = {"__name__": "__main__"}
    count = 0
    for block, after in zip(blocks, [*blocks[1:], None], strict=False):
        if block[1] != "python":
            continue
        count += 1
        printed = io.StringIO()
        line = text.count("\n", 0, block.start(2))
        tree = ast.increment_lineno(ast.parse(block[2], str(page)), line)
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, str(page), "exec"), namespace)
        if after and after[1] == "text" and not text[block.end() : after.start()].strip():
            assert printed.getvalue().rstrip() == after[2].rstrip(), f"{page.name}:{line}"
    return count


@pytest.fixture
def registries():
    """What a page registers is taken out again."""
    for room in ROOMS:
        import_module(f"qact.{room}")
    every = [found for found in gc.get_objects() if type(found) is Registry]
    before = [(found, set(found)) for found in every]
    yield
    for found, names in before:
        for name in set(found) - names:
            found.remove(name)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in HEADING.findall(text)]
    return {re.sub(r"\s", "-", heading) for heading in plain}


def broken_links(page: Path) -> list[str]:
    """Links of a page to files or headings of this project that do not exist."""
    broken = []
    for found in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        link = found[1] or found[2]
        if re.match(r"[a-z][a-z+.-]*:|//", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors(target)
        ):
            broken.append(link)
    return broken


# What these print follows the seed.
DRAWN = [ROOT / "docs" / "adaptation.md", ROOT / "docs" / "experts.md"]


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.own_seed] if p in DRAWN else []) for p in PAGES],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_snippets_run(page, monkeypatch, tmp_path, registries):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        run_page(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page):
    assert broken_links(page) == []


def test_the_docs_have_snippets():
    with torch.random.fork_rng(devices=[]):
        assert run_page(ROOT / "docs" / "mathematics.md") >= 5


@pytest.mark.parametrize(
    "text",
    [
        "```python\nassert 1 == 2\n```\n",
        "```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n",
        "```python\nprint(1)\n```\n\n```text\n2\n```\n",
        "```python\nundefined\n```\n",
    ],
)
def test_a_failing_snippet_fails(text, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises((AssertionError, NameError)):
        run_page(page)


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](#a-title) [b](#b) [c](gone.md) [d](https://example.org/)\n")
    assert broken_links(page) == ["#b", "gone.md"]


def test_pictures_are_legible_on_dark_pages():
    """One has colours for either scheme, and stands on the page, or it stands on white."""
    (sheet,) = (ROOT / "docs/stylesheets").glob("*.css")
    (whites,) = re.findall(r"img:is\(([^{]*)\) \{\s*background: white;", sheet.read_text())
    parts = re.findall(r'\[src[*$]="(/[^"]*)"\]', whites)
    pictures = [*(ROOT / "docs/images").rglob("*.svg")]
    assert pictures
    for path in pictures:
        on_white = any(part in f"/{path.name}" for part in parts)
        assert on_white != ("prefers-color-scheme: dark" in path.read_text()), path.name


def test_the_site_builds_strictly_and_asks_nobody(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("latex2mathml")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]  # quiet, it misses warnings
    built = subprocess.run(
        [*command, "--site-dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    for page in tmp_path.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert not re.search(r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//', html), page.name
        assert not re.search(r'<link[^>]*rel="(?:stylesheet|preconnect)"[^>]*//', html), page.name
        assert "arithmatex" not in html, f"{page.name}: a formula was not converted"
