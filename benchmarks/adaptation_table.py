"""Write what `benchmarks/adaptation.py` has measured into `docs/adaptation.md`.

python benchmarks/adaptation_table.py
"""

import argparse
import csv
from pathlib import Path
from statistics import fmean

from qact.bench.adaptation import parse_adaptation
from qact.bench.shift import STREAMS
from qact.bench.stat import Stat
from qact.bench.table import shown

COLUMNS = (*(f"{stream}-64" for stream in STREAMS), *(f"iid-{size}" for size in (1, 4, 16, 256)))
MARKS = ("<!-- table -->", "<!-- /table -->")
Found = dict[tuple[str, str], dict[str, list[dict]]]  # method, column: rows of each seed


def read(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def by_column(rows: list[dict]) -> Found:
    found: Found = {}
    for row in rows:
        kind = parse_adaptation(row["adaptation"])
        seeds = found.setdefault((kind.kind, f"{row['stream']}-{kind.batch}"), {})
        seeds.setdefault(row["seed"], []).append(row)
    return found


def mean(seeds: dict[str, list[dict]], metric: str, scale: float = 1.0) -> str:
    """Mean over conditions, then over seeds with its deviation; a dash where nothing is in."""
    values = [fmean(float(row[metric]) for row in rows) for rows in seeds.values()]
    return shown(Stat.of(values), scale)


def table(found: Found) -> list[str]:
    """One row per method, one column per stream."""
    columns = [name for name in COLUMNS if any(key[1] == name for key in found)]
    head = ["method", *columns, "ECE, iid-64", "ms", "KiB"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for method in sorted({key[0] for key in found}, key=lambda m: (m != "source", m != "batch", m)):
        iid = found.get((method, "iid-64"), {})
        cells = [mean(found.get((method, name), {}), "accuracy", 100) for name in columns]
        cost = [mean(iid, name).split("±")[0] for name in ("ms_per_batch", "held_kib")]
        cells = [f"`{method}`", *cells, mean(iid, "ece", 100), *cost]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("benchmarks/data/adaptation"))
    parser.add_argument("--page", type=Path, default=Path("docs/adaptation.md"))
    options = parser.parse_args()
    parts = []
    for path in sorted(options.data.glob("*.csv"), reverse=True):
        rows = read(path)
        for activation in sorted({row["activation"] for row in rows}, reverse=True):
            mine = [row for row in rows if row["activation"] == activation]
            seeds = sorted({row["seed"] for row in mine})
            title = f"{path.stem}, {activation}, {len(mine)} rows, seeds {', '.join(seeds)}"
            parts += [f"**{title}**", "", *table(by_column(mine)), ""]
    text = options.page.read_text(encoding="utf-8")
    head, rest = text.split(MARKS[0])
    tail = rest.split(MARKS[1])[1]
    body = "\n".join(parts)
    options.page.write_text(f"{head}{MARKS[0]}\n\n{body}\n{MARKS[1]}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
