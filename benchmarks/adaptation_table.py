"""Write what `benchmarks/adaptation.py` has measured into `docs/adaptation.md`.

python benchmarks/adaptation_table.py
"""

import argparse
import csv
from pathlib import Path
from statistics import fmean

from qact.bench.recipe.adaptations import parse_adaptation
from qact.bench.recipe.shift import STREAMS
from qact.bench.report.summary import Stat
from qact.bench.report.text import shown

COLUMNS = (*(f"{stream}-64" for stream in STREAMS), *(f"iid-{size}" for size in (1, 4, 16, 256)))
AGAIN = "-again"  # networks that were trained a second time, for some methods only
MARKS = {name: (f"<!-- {name} -->", f"<!-- /{name} -->") for name in ("summary", "table")}
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


def over_streams(found: Found, method: str) -> tuple[float, float] | None:
    """Accuracy in %, mean over streams, and the least lead on the source of any stream and seed."""
    means, leads = [], []
    for name, stream in ((key[1], seeds) for key, seeds in found.items() if key[0] == method):
        source = found["source", name]
        values = {s: 100 * fmean(float(row["accuracy"]) for row in stream[s]) for s in stream}
        base = {s: 100 * fmean(float(row["accuracy"]) for row in source[s]) for s in stream}
        means.append(fmean(values.values()))
        leads.append(min(values[s] - base[s] for s in values))
    return (fmean(means), min(leads)) if means else None


def summary(networks: dict[str, Found]) -> list[str]:
    """One row per method, the best mean over networks first."""
    found = {
        method: [over_streams(found, method) for found in networks.values()]
        for method in dict.fromkeys(key[0] for part in networks.values() for key in part)
    }
    head = ["method", *(f"{name}: {what}" for name in networks for what in ("mean", "worst lead"))]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for method in sorted(found, key=lambda m: -fmean(part[0] for part in found[m] if part)):
        cells = [
            "– | –" if part is None else "{:.1f} | {:+.1f}".format(*part) for part in found[method]
        ]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("benchmarks/data/adaptation"))
    parser.add_argument("--page", type=Path, default=Path("docs/adaptation.md"))
    options = parser.parse_args()
    parts, networks = [], {}
    for path in sorted(options.data.glob("*.csv"), reverse=True):
        rows = read(path)
        for activation in sorted({row["activation"] for row in rows}, reverse=True):
            mine = [row for row in rows if row["activation"] == activation]
            seeds = sorted({row["seed"] for row in mine})
            found = by_column(mine)
            if not path.stem.endswith(AGAIN):
                networks[f"{path.stem}, {activation}"] = found
            title = f"{path.stem}, {activation}, {len(mine)} rows, seeds {', '.join(seeds)}"
            parts += [f"**{title}**", "", *table(found), ""]
    text = options.page.read_text(encoding="utf-8")
    for name, lines in (("summary", [*summary(networks), ""]), ("table", parts)):
        first, last = MARKS[name]
        head, rest = text.split(first)
        text = f"{head}{first}\n\n{chr(10).join(lines)}\n{last}{rest.split(last)[1]}"
    options.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
