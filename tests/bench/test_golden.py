"""What people read, held against what was read before: the page, the tables of 80 columns, the CSV.

The page is compared tag by tag and word by word, without its figures and style. After a change that
is meant, ``python tests/bench/test_golden.py`` writes the files of ``golden`` anew, for the diff.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from rich.console import Console

from qact.bench import Data, Recipe, Results, Shift, Summary
from qact.bench.measure.metrics import measure
from qact.bench.recipe.rows import KEY, wanted
from qact.bench.report.html import render
from qact.bench.report.terminal import print_all

GOLDEN = Path(__file__).parent / "golden"
VOID = {"meta", "br", "path", "use", "rect"}


def found() -> Results:
    """Results of known numbers with everything that a bench can have: losses, methods, streams."""
    recipe = Recipe(
        shift=Shift(
            ("fog", "contrast"), (0, 1, 2, 3, 4, 5), ("frozen", "batch-16"), ("iid", "sorted")
        ),
        activations=("relu", "qact"),
        seeds=(0, 1),
        losses=("cross_entropy", "watershed"),
        further=(
            Shift(
                ("fog",), (5,), ("source-4", "tent-4", "lame-4"), ("iid", "recurring"), images=16
            ),
        ),
    )
    results = Results(
        recipe,
        activations={
            "relu": {"module": "relu: ReLU()", "paper": "Nair & Hinton", "control": True},
            "qact": {"module": "qact: <b>QAct</b>(8)", "paper": "it's this", "control": False},
        },
        environment={
            "command": "qact bench --out '<there>'",
            "versions": {"python": "3.12", "torch": "2.13"},
            "machine": "Linux x86_64, 2 cores",
            "jobs": 2,
            "images": {"train": 90, "val": 10, "test": 40},
            "shape": [1, 8, 8],
            "seconds": 12.5,
        },
    )
    for activation, loss, seed in recipe.cells():
        rows = [_row(key) for key in wanted(recipe, activation, loss, seed)]
        name = activation if loss == "cross_entropy" else f"{activation}/{loss}"
        results.add(rows, f"{name}/{seed}", _notes(len(name), seed))
    return results


def _row(key):
    draw = torch.Generator().manual_seed(zlib.crc32(repr(key).encode()))
    # Quarters: the same numbers on every processor.
    logits = torch.randint(-9, 10, (40, 3), generator=draw) / 4
    labels = torch.randint(3, (40,), generator=draw)
    spent = {"ms_per_batch": len(repr(key)) / 8, "held_kib": len(repr(key)) / 2}
    return dict(zip(KEY, key, strict=True)) | measure(logits, labels) | spent


def _notes(salt, seed):
    return {
        "history": [{"loss": 1.0, "val_accuracy": 0.5 + seed / 8, "seconds": 1.0 + salt / 8}] * 2,
        "train_seconds": 2.0 + salt / 4,
        "measure_seconds": 1.0,
        "single_sample_gap": 1e-7 if salt < 10 else 0.25,
        "parameters": 1234 * salt,
        "costs": {"step_ms": 1.5, "kept_mib": 2.25, "predict_ms": {"frozen": 0.75 + seed}},
    }


def as_cifar10(results):
    """The same under names and sizes beside which published numbers can stand."""
    recipe = replace(results.recipe, data=Data("cifar10"), further=())
    return replace(
        results,
        recipe=recipe,
        rows=[row for row in results.rows if row["images"] is None and row["stream"] == "iid"],
        environment=results.environment | {"images": {"test": 10_000}},
    )


def of_many(results):
    """The same under nine names, which are ranked."""
    names = ("relu", "qact", "gelu", "silu", "elu", "celu", "selu", "mish", "tanh")
    facts = {"module": "module", "paper": "paper", "control": True}
    rows, cells = [], {}
    for index, name in enumerate(names):
        for row in (r for r in results.rows if r["activation"] == "relu" and r["images"] is None):
            usual = (row["loss"], row["stream"]) == ("cross_entropy", "iid")
            if usual and row["severity"] in (0, 5):
                rows.append(row | {"activation": name, "accuracy": row["accuracy"] - index / 64})
        for seed in (0, 1):
            cells[f"{name}/{seed}"] = _notes(index, seed)
    about = {name: facts | {"control": name != "qact"} for name in names}
    recipe = replace(
        results.recipe,
        activations=names,
        losses=(),
        further=(),
        shift=replace(results.recipe.shift, streams=("iid",), severities=(0, 5)),
    )
    return replace(results, recipe=recipe, activations=about, rows=rows, cells=cells)


CASES = {"bench": lambda r: r, "published": as_cifar10, "many": of_many}


class Canonical(HTMLParser):
    """A page as one line per row or paragraph: no figures, no style, spaces collapsed."""

    blocks = ("tr", "section", "h1", "h2", "p", "div", "figure", "figcaption", "table", "dt", "dd")

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.hidden: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag in ("svg", "style") or (self.hidden and tag not in VOID):
            self.hidden.append(tag)
        if not self.hidden or self.hidden == ["svg"]:
            kept = {k: v for k, v in attributes if tag != "svg" or k == "aria-label"}
            listed = "".join(f" {k}={v!r}" for k, v in sorted(kept.items()))
            self.lines.append(f"\n<{tag}{listed}>" if tag in self.blocks else f"<{tag}{listed}>")

    def handle_startendtag(self, tag, attributes):
        if not self.hidden:
            self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        if self.hidden:
            if tag not in VOID:
                self.hidden.pop()
        else:
            self.lines.append(f"</{tag}>")

    def handle_data(self, text):
        if not self.hidden and text.strip():
            self.lines.append(" ".join(text.split()))


def page(results) -> str:
    reader = Canonical()
    reader.feed(render(Summary(results)))
    return "".join(reader.lines).strip() + "\n"


def tables(results) -> str:
    text = io.StringIO()
    print_all(Summary(results), Console(file=text, width=80, color_system=None))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("what", [page, tables])
@pytest.mark.own_seed  # of what is kept
def test_people_read_what_they_read_before(case, what):
    golden = (GOLDEN / f"{case}-{what.__name__}.txt").read_text(encoding="utf-8")
    assert what(CASES[case](found())) == golden


@pytest.mark.own_seed  # of what is kept
def test_programs_read_what_they_read_before(tmp_path):
    results = found()
    rows = [row for row in results.rows if row["severity"] in (0, 5) and not row["seed"]]
    replace(results, rows=rows).save(tmp_path)
    assert (tmp_path / "results.csv").read_text() == (GOLDEN / "results.csv").read_text()


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for case, change in CASES.items():
        for what in (page, tables):
            target = GOLDEN / f"{case}-{what.__name__}.txt"
            target.write_text(what(change(found())), encoding="utf-8")
    results = found()
    rows = [row for row in results.rows if row["severity"] in (0, 5) and not row["seed"]]
    replace(results, rows=rows).save(GOLDEN)
    (GOLDEN / "results.json").unlink()
