"""The report's costs: what each activation takes in time and memory; single samples checked."""

from __future__ import annotations

from html import escape

from qact.bench.report.markup import key, note, number, section
from qact.bench.report.stat import Stat
from qact.bench.report.summary import Summary

_TEXT = (
    "Times as they were on the machine below, with the stated processes side by side. A step is "
    "forward and backward; MiB are what it keeps for the backward pass, of one training batch. "
    "Single-sample difference: largest change of a logit when images are predicted one by one "
    "instead of in a batch, with stored statistics. It should be rounding alone: then the "
    "frozen rows are what single samples get."
)


def costs(summary: Summary) -> str:
    """Return what each activation cost to train, and the check of single samples."""
    body = "".join(_row(summary, name) for name in summary.activations)
    titles = (
        "",
        "parameters",
        "seconds per epoch",
        "step, ms per image",
        "step, MiB",
        *(f"{name}, ms per image" for name in summary.timed),
        "validation accuracy, %",
        "single-sample difference",
    )
    top = "".join(f"<th>{escape(title)}</th>" for title in titles)
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    text = _TEXT
    for name, gap in summary.leaking().items():
        leak = f"{name}: its frozen rows are not those of single samples (difference {gap:.2g})."
        text = f"{leak} {text}"
    return section("Costs and checks", f'<div class="wide">{table}</div>{note(text)}')


def _row(summary: Summary, name: str) -> str:
    cells = summary.results.cells
    own = [cells[f"{name}/{s}"] for s in summary.seeds if f"{name}/{s}" in cells]
    if not own:
        return ""
    trained = [c for c in own if c["history"]]
    epoch = Stat.of(c["train_seconds"] / len(c["history"]) for c in trained)
    val = Stat.of(c["history"][-1]["val_accuracy"] for c in trained)
    gap = max(c["single_sample_gap"] for c in own)
    known = summary.costs(name)
    predicted = [known.get("predict_ms", {}).get(a) for a in summary.timed]
    measured = (known.get("step_ms"), known.get("kept_mib"), *predicted)
    middle = "".join(f"<td>{'–' if v is None else f'{v:.2f}'}</td>" for v in measured)
    return (
        f"<tr><th>{key(summary, name)}</th><td>{own[0]['parameters']:,}</td>"
        f"<td>{number(epoch, 1, 2)}</td>{middle}<td>{number(val, 100, 1)}</td>"
        f"<td>{gap:.1e}</td></tr>"
    )
