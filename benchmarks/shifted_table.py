"""Write what `benchmarks/shifted.py` has measured into `docs/results.md`.

python benchmarks/shifted_table.py
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from qact.bench.report.summary import Stat
from qact.bench.report.text import shown

MARKS = ("<!-- shifted -->", "<!-- /shifted -->")
TITLES = {"cifar10": "CIFAR-10", "fashion_mnist": "Fashion-MNIST", "cifar100": "CIFAR-100"}
TRAINED = {"plain": "plain", "augmix": "crops, flips and AugMix"}
OURS = ("qact.paper", "qact.paper (paper)", "qact", "qact (paper)")
ORDER = ("relu", "gelu", "selu", "prelu", *OURS)
COLUMNS = {  # adaptation, severities, metric
    "clean": ("frozen", (0,), "accuracy"),
    "3, frozen": ("frozen", (3,), "accuracy"),
    "5, frozen": ("frozen", (5,), "accuracy"),
    "3, batch": ("batch-200", (3,), "accuracy"),
    "5, batch": ("batch-200", (5,), "accuracy"),
    "ECE 5, frozen": ("frozen", (5,), "ece"),
    "ECE 5, batch": ("batch-200", (5,), "ece"),
}
Seeds = dict[int, float]


class Study:
    """The rows of one data set and one kind of training; seeds that all activations have."""

    def __init__(self, folder: Path, name: str) -> None:
        self.rows: dict[tuple[str, str, int, int], list[dict]] = defaultdict(list)
        self.seeds: dict[str, set[int]] = defaultdict(set)
        files = {"": folder / f"{name}.csv", " (paper)": folder / f"{name}-paper.csv"}
        for mark, path in files.items():
            for row in csv.DictReader(path.open(newline="")) if path.exists() else ():
                who = row["activation"] + mark
                self.seeds[who].add(int(row["seed"]))
                key = (who, row["adaptation"], int(row["severity"]), int(row["seed"]))
                self.rows[key].append(row)
        self.complete = sorted(set.intersection(*(self.seeds[who] for who in ORDER)))

    def values(self, who: str, column: str) -> Seeds:
        """Per seed, the mean over corruptions and severities, in percent."""
        adaptation, severities, metric = COLUMNS[column]
        found = {}
        for seed in self.complete:
            rows = [r for s in severities for r in self.rows[who, adaptation, s, seed]]
            found[seed] = 100 * fmean(float(row[metric]) for row in rows)
        return found

    def table(self) -> list[str]:
        """One row per activation."""
        lines = [f"| | {' | '.join(COLUMNS)} |", "|---|" + "---:|" * len(COLUMNS)]
        for who in ORDER:
            cells = (shown(Stat.of(self.values(who, column).values())) for column in COLUMNS)
            lines.append(f"| {named(who)} | {' | '.join(cells)} |")
        return lines

    def gaps(self, column: str) -> Iterable[str]:
        """QAct minus ReLU, paired by seed, with the 95 % interval."""
        theirs = self.values("relu", column)
        for who in OURS:
            stat = Stat.of(v - theirs[seed] for seed, v in self.values(who, column).items())
            interval = stat.interval() if stat else None
            text = f"{stat.mean:+.1f}" if stat else "–"
            yield text if interval is None else f"{text} ({interval[0]:+.1f} to {interval[1]:+.1f})"


def named(who: str) -> str:
    """The activation, and where it stands if not everywhere."""
    name, _, place = who.partition(" (")
    return f"`{name}`, the paper's placement" if place else f"`{name}`"


def differences(studies: dict[str, Study]) -> list[str]:
    """QAct against ReLU in every study, severity 5."""
    lines = [f"| | {' | '.join(named(who) for who in OURS)} |", "|---|" + "---:|" * len(OURS)]
    for title, study in studies.items():
        for adaptation in ("frozen", "batch"):
            cells = study.gaps(f"5, {adaptation}")
            lines.append(f"| {title}, {adaptation} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("benchmarks/data/shifted"))
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"))
    options = parser.parse_args()
    studies, parts = {}, []
    for name, title in TITLES.items():
        for label, training in TRAINED.items():
            study = Study(options.data, f"{name}-{label}")
            if not study.complete:
                parts += [f"**{title}, {training}**: not measured yet.", ""]
                continue
            studies[f"{title}, {label}"] = study
            seeds = ", ".join(map(str, study.complete))
            parts += [f"**{title}, {training}**, seeds {seeds}", "", *study.table(), ""]
    parts += ["**QAct minus ReLU at severity 5**, in points", "", *differences(studies), ""]
    text = options.page.read_text(encoding="utf-8")
    head, rest = text.split(MARKS[0])
    body, tail = "\n".join(parts), rest.split(MARKS[1])[1]
    options.page.write_text(f"{head}{MARKS[0]}\n\n{body}\n{MARKS[1]}{tail}", encoding="utf-8")
    print(body)


if __name__ == "__main__":
    main()
