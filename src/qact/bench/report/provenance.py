"""The report's end: what is needed to repeat the numbers."""

from __future__ import annotations

from html import escape

from qact.bench.recipe.training import Training
from qact.bench.report.markup import code, section, terms
from qact.bench.report.summary import Summary

_STREAMS = {
    "iid": "images of one corruption and severity, shuffled",
    "sorted": "the same, sorted by class",
    "dirichlet": "the same, classes correlated in time",
    "imbalanced": "the same, the most frequent class ten times the rarest",
    "garbage": "the same, with batches of garbage between",
    "mixed": "all corruptions in every batch",
    "continual": "one corruption after the other, without a new start",
    "recurring": "the same, three times round",
    "gradual": "within each corruption the severity rises from 1 to 5",
}

_KEPT = {
    "last": "last epoch's weights",
    "best": "weights of the epoch that did best on validation images",
}


def _further(training: Training) -> str:
    """Return the options that are not always mentioned, where they are used."""
    said = {"epochs", "batch", "optimizer", "lr", "weight_decay", "loss", "label_smoothing"}
    whole = {k: v for k, v in training.identity().items() if k not in said}
    return "".join(f", {k} {v}" for k, v in whole.items() if k not in ("schedule", "select"))


def how(summary: Summary) -> str:
    """Return what is needed to repeat the numbers."""
    results, recipe = summary.results, summary.results.recipe
    environment, training = results.environment, recipe.training
    streams = dict.fromkeys(name for shift in recipe.shifts() for name in shift.streams)
    images = ", ".join(f"{n} {part}" for part, n in environment.get("images", {}).items())
    shape = "x".join(map(str, environment.get("shape", ())))
    versions = ", ".join(f"{k} {v}" for k, v in environment.get("versions", {}).items())
    facts = {
        "data": f"{recipe.data.name}, {shape} (channels x height x width); {images}",
        "network": f"{recipe.model.name}, width x{recipe.model.width_multiplier:g}",
        "training": (
            f"{training.epochs} epochs, batch {training.batch}, {training.optimizer}, "
            f"{training.schedule.replace('_', ' ')} to {training.lr:g}, weight decay "
            f"{training.weight_decay:g}, {' or '.join(recipe.every_loss())}, label smoothing "
            f"{training.label_smoothing:g}{_further(training)}; the same for every activation; "
            f"the {_KEPT[training.select]}; nothing chosen on test images"
        ),
        "seeds": ", ".join(map(str, recipe.seeds)),
        "corruptions": ", ".join(recipe.shift.corruptions),
        "streams": "; ".join(f"{name}: {_STREAMS[name]}" for name in streams),
        "versions": versions,
        "machine": (
            f"{environment.get('machine', '?')}; {environment.get('jobs', '?')} processes of one "
            f"thread; {environment.get('seconds', 0):.0f} s in all"
        ),
    }
    html = {"command": code(str(environment.get("command", "?")))}
    html |= {term: escape(text) for term, text in facts.items()}
    for name in summary.activations:
        entry = summary.about(name)
        html[name] = f"{escape(str(entry.get('paper')))}<br>{code(str(entry.get('module')))}"
    return section("How it was made", terms(html))
