"""Published numbers on CIFAR-10-C and CIFAR-100-C, and our rows under them.

``published.csv`` holds, one number a line, what others report, with the regime and the source.
Accuracy and ECE are in percent, NLL is in nats; ``severity`` is 1 to 5 or ``1-5`` for the mean over
all, and ``corruption`` a name or ``mean`` for that over the 15 standard ones. Networks and training
recipes differ from line to line, so a difference to our rows is no controlled comparison; the
controls of the bench are.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from statistics import fmean

from qact.bench.recipe.adaptations import parse_adaptation
from qact.bench.report.summary import Summary
from qact.bench.report.text import shown
from qact.corruptions import corruptions

TEST_IMAGES = 10_000
Cells = dict[tuple[str, str, str], float]  # by severity, metric, corruption
NOTE = (
    "Published: other networks and recipes, the published corrupted files. Ours: this bench's "
    "corruptions, by the same constants. No controlled comparison; that is what the controls are."
)


@dataclass(frozen=True)
class Published:
    """One method of the literature: accuracy in percent under the corruptions that were asked for.

    ``worst`` is at severity 5, ``mean`` over severities 1 to 5, as are ``nll`` (nats) and ``ece``
    (percent); None where it is not published.
    """

    method: str
    model: str
    regime: str
    source: str
    worst: float | None
    mean: float | None
    nll: float | None = None
    ece: float | None = None

    def numbers(self) -> tuple[str, ...]:
        """Return what a table shows of it."""
        shares = ("–" if v is None else f"{v:.1f}" for v in (self.worst, self.mean))
        return (
            *shares,
            "–" if self.nll is None else f"{self.nll:.2f}",
            "–" if self.ece is None else f"{self.ece:.1f}",
        )


COLUMNS = ("severity 5", "1 to 5", "NLL", "ECE")


def published(data: str, names: tuple[str, ...] = ()) -> list[Published]:
    """Return the methods of a data set, best first, averaged over the corruptions of that name.

    For all 15 (``names`` empty, or all of them) these are the published means; for fewer, means of
    the published numbers per corruption, at severity 5 alone.

    Example:
        >>> [(p.method, p.model, p.worst) for p in published("cifar10")][:1]
        [('Calian 2021, extra data', 'ResNet-50', 89.4)]
        >>> [p.method for p in published("cifar10", ("contrast",))][:1]
        ['AugMix + TENT']
    """
    whole = not names or set(names) == set(corruptions())
    found = [
        Published(
            *who,
            _at(cells, ("5", "accuracy"), whole, names),
            _at(cells, ("1-5", "accuracy"), whole, names),
            _at(cells, ("1-5", "nll"), whole, names),
            _at(cells, ("1-5", "ece"), whole, names),
        )
        for who, cells in _methods(data).items()
    ]
    known = [p for p in found if p.worst is not None or p.mean is not None]
    return sorted(known, key=lambda p: (p.worst is None, -(p.worst or p.mean or 0.0)))


def per_corruption(data: str, method: str, model: str) -> dict[str, float]:
    """Return a method's accuracy in percent at severity 5 under each of the 15 corruptions.

    Raises:
        ValueError: it is not published per corruption.

    Example:
        >>> per_corruption("cifar10", "Standard", "WRN-28-10")["brightness"]
        90.7
    """
    for who, cells in _methods(data).items():
        found = {c: cells.get(("5", "accuracy", c)) for c in corruptions()}
        if who[:2] == (method, model) and None not in found.values():
            return {name: value for name, value in found.items() if value is not None}
    raise ValueError(f"{method!r} with {model!r} is not published per corruption of {data!r}")


def _at(cells: Cells, what: tuple[str, str], whole: bool, names: tuple[str, ...]) -> float | None:
    if whole:
        return cells.get((*what, "mean"))
    values = [cells.get((*what, name)) for name in names]
    return None if None in values else round(fmean(v for v in values if v is not None), 2)


@lru_cache
def _methods(data: str) -> dict[tuple[str, str, str, str], Cells]:
    """Return, per (method, model, regime, source), the values at (severity, metric, corruption)."""
    text = (files("qact.bench.report") / "published.csv").read_text(encoding="utf-8")
    methods: dict[tuple[str, str, str, str], Cells] = defaultdict(dict)
    for row in csv.DictReader(text.splitlines()):
        if row["data"] == data:
            who = (row["method"], row["model"], row["regime"], row["source"])
            where = (row["severity"], row["metric"], row["corruption"])
            methods[who][where] = float(row["value"])
    return dict(methods)


def misfit(summary: Summary) -> str | None:
    """Return why published numbers cannot stand beside these rows; None if they can."""
    recipe = summary.results.recipe
    if not _methods(recipe.data.name):
        return f"nothing published is known for {recipe.data.name}"
    images = summary.results.environment.get("images", {}).get("test", TEST_IMAGES)
    if images != TEST_IMAGES:
        return f"measured on {images} of the {TEST_IMAGES} test images"
    if not set(summary.corruptions) <= set(corruptions()):
        return "corruptions beside the 15 standard ones were measured"
    if 5 not in summary.severities:
        return "severity 5 was not measured"
    if summary.stream != "iid":
        return f"the stream is {summary.stream}"
    return None


def ours(summary: Summary) -> list[tuple[str, ...]]:
    """Return our rows: method, network, regime, accuracy at severity 5, then means over 1 to 5."""
    model = summary.results.recipe.model
    network = f"{model.name} x{model.width_multiplier:g}"
    complete = set(summary.severities) >= {1, 2, 3, 4, 5}
    return [
        (
            f"{method[0]}, {method[1]}",
            network,
            _regime(method[1]),
            shown(summary.at(method, 5, "accuracy"), 100),
            shown(summary.shifted(method, "accuracy") if complete else None, 100),
            shown(summary.shifted(method, "nll") if complete else None, digits=2),
            shown(summary.shifted(method, "ece") if complete else None, 100),
        )
        for method in summary.methods
    ]


def _regime(adaptation: str) -> str:
    kind = parse_adaptation(adaptation)
    if kind.batch is None:
        return "stored statistics"
    method = "" if kind.context else f", {kind.kind}"
    return f"test batches of {kind.batch}, i.i.d.{method}"
