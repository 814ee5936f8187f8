"""Write what `benchmarks/adaptation.py` has measured into `docs/adaptation.md`.

python benchmarks/adaptation_table.py
"""

import argparse
import csv
import statistics
from pathlib import Path

STREAMS = (
    *("iid-64", "sorted-64", "dirichlet-64", "imbalanced-64", "garbage-64", "mixed-64"),
    *("continual-64", "recurring-64", "gradual-64", "iid-1", "iid-4", "iid-16", "iid-256"),
)
MARKS = ("<!-- table -->", "<!-- /table -->")


def read(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def mean(rows: list[dict], field: str, scale: float = 1.0) -> str:
    """Mean over seeds, with its standard deviation from two on; a dash where nothing is in."""
    values = [scale * float(row[field]) for row in rows]
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


def table(rows: list[dict]) -> list[str]:
    """One row per method, one column per stream."""
    found: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        found.setdefault((row["method"], f"{row['stream']}-{row['batch']}"), []).append(row)
    streams = [s for s in STREAMS if any(key[1] == s for key in found)]
    head = ["method", *streams, "ECE, iid-64", "ms", "KiB"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for method in sorted({key[0] for key in found}, key=lambda m: (m != "source", m != "batch", m)):
        iid = found.get((method, "iid-64"), [])
        cells = [mean(found.get((method, s), []), "accuracy", 100) for s in streams]
        cost = [mean(iid, "cpu_ms_per_batch"), mean(iid, "held_kib")]
        cells = [f"`{method}`", *cells, mean(iid, "ece", 100), *cost]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("benchmarks/data/adaptation"))
    parser.add_argument("--page", type=Path, default=Path("docs/adaptation.md"))
    options = parser.parse_args()
    parts = []
    for path in sorted(options.data.glob("*.csv")):
        rows = read(path)
        for activation in sorted({row["activation"] for row in rows}, reverse=True):
            mine = [row for row in rows if row["activation"] == activation]
            seeds = sorted({row["seed"] for row in mine})
            title = f"{path.stem}, {activation}, {len(mine)} rows, seeds {', '.join(seeds)}"
            parts += [f"**{title}**", "", *table(mine), ""]
    text = options.page.read_text(encoding="utf-8")
    head, rest = text.split(MARKS[0])
    tail = rest.split(MARKS[1])[1]
    body = "\n".join(parts)
    options.page.write_text(f"{head}{MARKS[0]}\n\n{body}\n{MARKS[1]}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
