"""Write what `benchmarks/losses_shifted.py` has measured into `docs/results-losses.md`.

python benchmarks/losses_table.py
"""

import csv
import math
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

from scipy.stats import t

from losses_shifted import ACTIVATIONS, ADAPTATIONS, DATA, SEEDS, STUDIES, names

PAGE = Path(__file__).parents[1] / "docs" / "results-losses.md"
REGIMES = [(a, how) for a in ACTIVATIONS for how in ADAPTATIONS]
HEAD = (
    *("loss", "clean", "ReLU, stored", "ReLU, batch", "QAct, stored", "QAct, batch"),
    *("mean", "less cross-entropy", "NLL", "NLL, T", "ECE", "ECE, T", "Brier, T"),
    *("AUROC, pixels", "AUROC, noise"),
)
Rows = dict[tuple[str, str, str, int], list[dict[str, str]]]  # loss, activation, adaptation, seed


def read(path: Path) -> Rows:
    found: Rows = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            key = row["loss"], row["activation"], row["adaptation"], int(row["seed"])
            found[key].append(row)
    return found


def mean(rows: list[dict[str, str]], metric: str, *, clean: bool) -> float:
    """Mean over the conditions of one network: the clean one, or all shifted ones."""
    return fmean(float(r[metric]) for r in rows if (r["severity"] == "0") == clean)


def over(found: Rows, loss: str, metric: str, seed: int, *, clean: bool = False) -> float:
    """Mean over activations and statistics of one seed."""
    return fmean(mean(found[loss, a, how, seed], metric, clean=clean) for a, how in REGIMES)


def interval(values: list[float]) -> str:
    """Mean and half of the 95% interval of Student's t."""
    half = t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return f"{100 * fmean(values):+.1f} ± {100 * half:.1f}"


def complete(found: Rows, loss: str) -> bool:
    return all((loss, a, how, seed) in found for a, how in REGIMES for seed in SEEDS)


def table(found: Rows) -> list[str]:
    losses = [name for name in names() if complete(found, name)]
    if "cross_entropy" not in losses:  # which all others are compared with
        return ["Not measured yet."]
    accuracy = {x: [over(found, x, "accuracy", s) for s in SEEDS] for x in losses}
    lines = ["| " + " | ".join(HEAD) + " |", "|---|" + "---:|" * (len(HEAD) - 1)]
    for name in sorted(losses, key=lambda x: -fmean(accuracy[x])):
        regimes = [
            fmean(mean(found[name, a, how, s], "accuracy", clean=False) for s in SEEDS)
            for a, how in REGIMES
        ]
        clean = fmean(over(found, name, "accuracy", s, clean=True) for s in SEEDS)
        gap = [a - b for a, b in zip(accuracy[name], accuracy["cross_entropy"], strict=True)]
        shifted = {
            m: fmean(over(found, name, m, s) for s in SEEDS)
            for m in ("nll", "nll_t", "ece", "ece_t", "brier_t")
        }
        aurocs = [
            fmean(over(found, name, m, s, clean=True) for s in SEEDS)
            for m in ("auroc", "auroc_noise")
        ]
        cells = [
            f"`{name}`",
            *(f"{100 * value:.1f}" for value in (clean, *regimes, fmean(accuracy[name]))),
            "" if name == "cross_entropy" else interval(gap),
            f"{shifted['nll']:.2f}",
            f"{shifted['nll_t']:.2f}",
            *(f"{100 * shifted[m]:.1f}" for m in ("ece", "ece_t")),
            f"{shifted['brier_t']:.3f}",
            *(f"{100 * value:.1f}" for value in aurocs),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    missing = [name for name in names() if name not in losses]
    if missing:
        lines += ["", f"Not measured yet: {', '.join(f'`{name}`' for name in missing)}."]
    return lines


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for study in STUDIES:
        path, (begin, end) = DATA / f"{study}.csv", (f"<!-- {study} -->", f"<!-- /{study} -->")
        if path.exists() and begin in text:
            head, rest = text.split(begin)
            text = head + begin + "\n\n" + "\n".join(table(read(path))) + "\n\n" + end
            text += rest.split(end)[1]
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
