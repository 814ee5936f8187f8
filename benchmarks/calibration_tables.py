"""Print the tables of docs/results-calibration.md and draw its figures, from the recorded rows.

    python benchmarks/calibration_tables.py

Reads `benchmarks/data/calibration-*.json`, puts each table between its two marks in the page, and
writes `docs/images/calibration-*.svg`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from scipy.stats import t

from qact.calibration import plots

PAGE = Path("docs/results-calibration.md")
NAMES = {"relu": "ReLU", "qact": "`QAct`", "qact.paper": "`QAct.paper`"}
LOSSES = {"cross_entropy": "cross-entropy", "watershed": "watershed", "triplet": "triplet"}
ADAPTATIONS = {"frozen": "stored", "batch-200": "batch of 200"}
Rows = list[dict]
END = "<!-- end -->"


def root(power: float) -> float:
    return max(power, 0.0) ** 0.5


def per_seed(rows: Rows, value: Callable[[dict], float], severity: int | None = None) -> dict:
    """Value of each seed; None averages over severities from 1 on."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["severity"] == severity or (severity is None and row["severity"] > 0):
            found.setdefault(row["seed"], []).append(value(row))
    return {seed: fmean(values) for seed, values in found.items()}


def shown(values: list[float], scale: float = 100, digits: int = 1) -> str:
    if not values:
        return "–"
    mean = f"{scale * fmean(values):.{digits}f}"
    return f"{mean} ± {scale * stdev(values):.{digits}f}" if len(values) > 1 else mean


def chosen(rows: Rows, **wanted: object) -> Rows:
    return [row for row in rows if all(row[k] == v for k, v in wanted.items())]


def table(head: list[str], lines: list[list[str]]) -> str:
    top = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*top, *("| " + " | ".join(line) + " |" for line in lines)])


def severities(rows: Rows) -> list[int]:
    return sorted({row["severity"] for row in rows})


def slope(rows: Rows, value: Callable[[dict], float]) -> list[float]:
    """Per seed: the value at the highest severity less that on clean images."""
    last = max(severities(rows))
    clean, worst = per_seed(rows, value, 0), per_seed(rows, value, last)
    return [worst[seed] - clean[seed] for seed in clean]


def debiased(row: dict) -> float:
    return row["debiased2"]


def line(rows: Rows, value: Callable[[dict], float], names: list[str]) -> list[str]:
    cells = [shown(list(per_seed(rows, value, s).values())) for s in severities(rows)]
    return [*names, *cells, shown(slope(rows, value))]


def constant(study: dict) -> str:
    """Plain ECE by severity of every head in question."""
    rows = study["heads"]
    head = ["activation", "loss", "statistics", "head"]
    head += ["clean" if s == 0 else str(s) for s in severities(rows)] + ["rise"]
    lines = []
    for activation, loss in (
        ("relu", "cross_entropy"),
        ("qact", "cross_entropy"),
        ("qact.paper", "cross_entropy"),
        ("relu", "watershed"),
        ("qact", "watershed"),
    ):
        for adaptation in ADAPTATIONS:
            for name in ("softmax", "temperature", "QuantProb", "quantile"):
                own = chosen(
                    rows, activation=activation, loss=loss, adaptation=adaptation, head=name
                )
                if own:
                    names = [NAMES[activation], LOSSES[loss], ADAPTATIONS[adaptation], name]
                    lines.append(line(own, lambda row: row["ece"], names))
    return table(head, lines)


def interval(values: list[float]) -> str:
    """Mean and 95% interval by Student's t over seeds, in points."""
    mean = 100 * fmean(values)
    if len(values) < 2:
        return f"{mean:+.1f}"
    half = 100 * float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def paired(study: dict) -> str:
    """QAct less ReLU, cross-entropy, seed by seed."""
    lines = []
    for adaptation in ADAPTATIONS:
        for name in ("softmax", "temperature", "QuantProb", "quantile"):
            key = {"loss": "cross_entropy", "adaptation": adaptation, "head": name}
            ours = chosen(study["heads"], activation="qact", **key)
            theirs = chosen(study["heads"], activation="relu", **key)
            cells = [ADAPTATIONS[adaptation], name]
            for s in (0, None, severities(ours)[-1]):
                one, two = (per_seed(rows, lambda r: r["ece"], s) for rows in (ours, theirs))
                cells.append(interval([one[seed] - two[seed] for seed in one if seed in two]))
            lines.append(cells)
    last = severities(study["heads"])[-1]
    return table(["statistics", "head", "clean", "shifted", f"severity {last}"], lines)


def losses(study: dict) -> str:
    """Accuracy and MAP of the losses, clean and shifted, with the linear head."""
    lines = []
    names = {"nearest": "1-NN", "prototype": "prototype", "watershed": "watershed classifier"}
    found = [name for name in names if chosen(study["heads"], head=name)]
    for activation in NAMES:
        for loss in LOSSES:
            for adaptation in ADAPTATIONS:
                key = {"activation": activation, "loss": loss, "adaptation": adaptation}
                rows, maps = chosen(study["heads"], **key), chosen(study["map"], **key)
                if not rows:
                    continue
                cells = [NAMES[activation], LOSSES[loss], ADAPTATIONS[adaptation]]
                for name in ("softmax", *found):
                    own = chosen(rows, head=name)
                    for s in (0, None):
                        cells.append(
                            shown(list(per_seed(own, lambda r: r["accuracy"], s).values()))
                        )
                for s in (0, None):
                    cells.append(shown(list(per_seed(maps, lambda r: r["map"], s).values())))
                lines.append(cells)
    head = ["activation", "loss", "statistics"]
    for name in ("linear", *(names[name] for name in found)):
        head += [f"{name}, clean", f"{name}, shifted"]
    return table([*head, "MAP@100, clean", "MAP@100, shifted"], lines)


def calibrators(study: dict) -> str:
    """Every calibrator on ReLU and QAct with cross-entropy: clean and shifted."""
    lines, seen = [], []
    for row in study["heads"]:
        if row["head"] not in seen and "nll" in row:
            seen.append(row["head"])
    for name in seen:
        if name in ("nearest", "prototype", "watershed"):
            continue
        cells = [name]
        for activation in ("relu", "qact"):
            for adaptation in ADAPTATIONS:
                key = {"activation": activation, "adaptation": adaptation}
                own = chosen(study["heads"], loss="cross_entropy", head=name, **key)
                for s in (0, None):
                    cells.append(shown([root(v) for v in per_seed(own, debiased, s).values()]))
        lines.append(cells)
    head = ["head"] + [
        f"{NAMES[a]}, {ADAPTATIONS[b]}, {c}"
        for a in ("relu", "qact")
        for b in ADAPTATIONS
        for c in ("clean", "shifted")
    ]
    return table(head, lines)


def confidence(study: dict) -> str:
    """Mean confidence and accuracy side by side, QAct with cross-entropy."""
    lines = []
    for adaptation in ADAPTATIONS:
        for name in ("softmax", "temperature", "QuantProb", "quantile"):
            key = {"activation": "qact", "loss": "cross_entropy", "adaptation": adaptation}
            own, cells = chosen(study["heads"], head=name, **key), [ADAPTATIONS[adaptation], name]
            for s in severities(own):
                both = [
                    100 * fmean(per_seed(own, lambda r, k=k: r[k], s).values())
                    for k in ("confidence", "accuracy")
                ]
                cells.append("{:.1f} / {:.1f}".format(*both))
            lines.append(cells)
    found = ["clean" if s == 0 else str(s) for s in severities(study["heads"])]
    return table(["statistics", "head", *found], lines)


def estimators(study: dict) -> str:
    """The same predictions by 15 bins and by distinct values."""
    lines = []
    for name in ("QuantProb", "quantile"):
        for kind, value in (
            ("15 bins", debiased),
            ("distinct values", lambda row: row["distinct2"]),
        ):
            cells = [name, kind]
            own = chosen(
                study["heads"],
                activation="qact",
                loss="cross_entropy",
                adaptation="batch-200",
                head=name,
            )
            for s in severities(own):
                cells.append(shown([root(v) for v in per_seed(own, value, s).values()]))
            lines.append(cells)
    found = ["clean" if s == 0 else str(s) for s in severities(study["heads"])]
    return table(["head", "estimator", *found], lines)


def conformal(study: dict) -> str:
    lines = []
    for activation in ("relu", "qact"):
        for adaptation in ADAPTATIONS:
            for method in ("split", "adaptive", "risk control, pooled", "non-exchangeable"):
                own = chosen(
                    study["conformal"],
                    activation=activation,
                    loss="cross_entropy",
                    adaptation=adaptation,
                    method=method,
                )
                cells = [NAMES[activation], ADAPTATIONS[adaptation], method]
                for s in severities(own):
                    cells.append(shown(list(per_seed(own, lambda r: r["coverage"], s).values())))
                last = severities(own)[-1]
                for s in (0, last):
                    sizes = list(per_seed(own, lambda r: r["size"], s).values())
                    cells.append(shown(sizes, 1, 2))
                lines.append(cells)
    found = ["clean" if s == 0 else str(s) for s in severities(study["conformal"])]
    head = ["activation", "statistics", "method", *found, "size, clean", f"size, {found[-1]}"]
    return table(head, lines)


def seeds(study: dict) -> str:
    counts: dict[tuple[str, str], int] = {}
    for row in study["training"]:
        key = (row["activation"], row["loss"])
        counts[key] = counts.get(key, 0) + 1
    few = [f"{NAMES[a]}, {LOSSES[b]}: {n}" for (a, b), n in counts.items() if n < 3]
    images, about = study["about"]["images"], study["about"]
    text = (
        f"{images['train']} training, {images['val']} validation and {images['test']} test images; "
        f"Python {about['python']}, torch {about['torch']}. "
    )
    return text + ("Seeds 0, 1, 2." if not few else f"Seeds 0, 1, 2, but for {'; '.join(few)}.")


def draw(study: dict, path: Path) -> None:
    """Plain ECE against severity: stored statistics on the left, the batch's on the right."""
    figure = Figure((9, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, adaptation in zip(panels, ADAPTATIONS, strict=True):
        curves = {}
        for activation, loss, name in (
            ("relu", "cross_entropy", "softmax"),
            ("relu", "cross_entropy", "temperature"),
            ("qact", "cross_entropy", "softmax"),
            ("qact", "cross_entropy", "temperature"),
            ("qact", "cross_entropy", "QuantProb"),
            ("qact", "cross_entropy", "quantile"),
        ):
            key = {"activation": activation, "loss": loss, "adaptation": adaptation, "head": name}
            own = chosen(study["heads"], **key)
            curves[f"{NAMES[activation].strip('`')}, {name}"] = {
                s: [100 * v for v in per_seed(own, lambda r: r["ece"], s).values()]
                for s in severities(own)
            }
        plots.severity_curves(curves, label="ECE, %", axes=axes)
        axes.set_title(f"{ADAPTATIONS[adaptation]} statistics")
        axes.get_legend().remove()
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right", frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})


TABLES = {
    "seeds": seeds,
    "constant": constant,
    "paired": paired,
    "losses": losses,
    "calibrators": calibrators,
    "confidence": confidence,
    "estimators": estimators,
    "conformal": conformal,
}


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for path in sorted(Path("benchmarks/data").glob("calibration-*.json")):
        study, name = json.loads(path.read_text()), path.stem.removeprefix("calibration-")
        for key, make in TABLES.items():
            mark = f"<!-- {name} {key} -->"
            if mark not in text:
                continue
            before, rest = text.split(mark)
            after = rest.split(END, 1)[1]
            text = f"{before}{mark}\n\n{make(study)}\n\n{END}{after}"
            print(f"{name}: {key}\n{make(study)}\n")
        draw(study, Path(f"docs/images/calibration-{name}.svg"))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
