"""The report's end: what it cost, and what is needed to repeat the numbers."""

from __future__ import annotations

from html import escape

from qact.bench.markup import code, key, note, number, section, terms
from qact.bench.summary import Stat, Summary

_STREAMS = {
    "iid": "images of one corruption and severity, shuffled",
    "sorted": "images of one corruption and severity, sorted by class",
    "dirichlet": "images of one corruption and severity, classes correlated in time",
}


def costs(summary: Summary) -> str:
    """Return what each activation cost to train, and the check of single samples."""
    cells = summary.results.cells
    body = ""
    for name in summary.activations:
        own = [cells[f"{name}/{s}"] for s in summary.seeds if f"{name}/{s}" in cells]
        if not own:
            continue
        epoch = Stat.of(c["train_seconds"] / max(1, len(c["history"])) for c in own)
        val = Stat.of(c["history"][-1]["val_accuracy"] for c in own if c["history"])
        gap = max(c["single_sample_gap"] for c in own)
        body += (
            f"<tr><th>{key(summary, name)}</th><td>{own[0]['parameters']:,}</td>"
            f"<td>{number(epoch, 1, 2)}</td><td>{number(val, 100, 1)}</td><td>{gap:.1e}</td></tr>"
        )
    text = (
        "Seconds as they were on the machine below, with the stated processes side by side. "
        "Single-sample difference: largest change of a logit when images are predicted one by one "
        "instead of in a batch, with stored statistics. It should be rounding alone: then the "
        "frozen rows are what single samples get."
    )
    top = "".join(
        f"<th>{title}</th>"
        for title in (
            "",
            "parameters",
            "seconds per epoch",
            "validation accuracy, %",
            "single-sample difference",
        )
    )
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    for name, gap in summary.leaking().items():
        leak = f"{name}: its frozen rows are not those of single samples (difference {gap:.2g})."
        text = f"{leak} {text}"
    return section("Costs and checks", f'<div class="wide">{table}</div>{note(text)}')


def how(summary: Summary) -> str:
    """Return what is needed to repeat the numbers."""
    results, recipe = summary.results, summary.results.recipe
    environment, training = results.environment, recipe.training
    images = ", ".join(f"{n} {part}" for part, n in environment.get("images", {}).items())
    shape = "x".join(map(str, environment.get("shape", ())))
    versions = ", ".join(f"{k} {v}" for k, v in environment.get("versions", {}).items())
    facts = {
        "data": f"{recipe.data.name}, {shape} (channels x height x width); {images}",
        "network": f"{recipe.model.name}, width x{recipe.model.width_multiplier:g}",
        "training": (
            f"{training.epochs} epochs, batch {training.batch}, {training.optimizer}, OneCycle to "
            f"{training.lr:g}, weight decay {training.weight_decay:g}, {training.loss}, label "
            f"smoothing {training.label_smoothing:g}; the same for every activation; the last "
            "epoch's weights; nothing chosen on test images"
        ),
        "seeds": ", ".join(map(str, recipe.seeds)),
        "corruptions": ", ".join(recipe.shift.corruptions),
        "stream": f"{recipe.shift.stream}: {_STREAMS[recipe.shift.stream]}",
        "versions": versions,
        "machine": (
            f"{environment.get('machine', '?')}; {environment.get('jobs', '?')} processes of one "
            f"thread; {environment.get('seconds', 0):.0f} s in all"
        ),
    }
    html = {"command": code(str(environment.get("command", "?")))}
    html |= {term: escape(text) for term, text in facts.items()}
    for name in summary.activations:
        entry = results.activations.get(name, {})
        html[name] = f"{escape(str(entry.get('paper')))}<br>{code(str(entry.get('module')))}"
    return section("How it was made", terms(html))
