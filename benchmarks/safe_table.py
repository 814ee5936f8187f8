"""Print the tables of safe adaptation in docs/adaptation.md, and write them there.

python benchmarks/safe_table.py
"""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean

ROWS, PAGE = Path("benchmarks/data/safe.csv"), Path("docs/adaptation.md")
BEGIN, END = "<!-- safe -->", "<!-- /safe -->"
MAIN = ("source", "batch", "safe")
SHORT = ("iid-64", "sorted-64", "mixed-64", "continual-64", "iid-4")
Found = dict[tuple, dict[int, float]]  # (study, level, activation, method, stream) to seeds


def read() -> Found:
    """Accuracy in % by cell and seed."""
    found: Found = defaultdict(dict)
    with ROWS.open(newline="") as file:
        for r in csv.DictReader(file):
            stream = f"{r['stream']}-{r['batch']}"
            key = (r["study"], r["level"], r["activation"], r["method"], stream)
            found[key][int(r["seed"])] = 100 * float(r["accuracy"])
    return found


def worst(found: Found, key: tuple) -> float | None:
    """The least lead over the source among the seeds of a cell, in points."""
    source = found.get((*key[:3], "source", key[4]), {})
    apart = [value - source[seed] for seed, value in found.get(key, {}).items() if seed in source]
    return min(apart) if apart else None


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def number(value: float | None, form: str = ".1f") -> str:
    return "–" if value is None else f"{value:{form}}"


def main_table(found: Found, study: str, level: str) -> list[str]:
    """Mean accuracy over the seeds, and the worst seed of `safe` against the source."""
    streams = list(dict.fromkeys(k[4] for k in found if k[:2] == (study, level)))
    seeds = sorted({s for k in found if k[:2] == (study, level) for s in found[k]})
    title = f"**{study}, {level}**, mean over seeds {', '.join(map(str, seeds))}"
    lines = [title, "", line(["", "", *streams]), line(["---", "---", *["---:"] * len(streams)])]
    for activation in ("relu", "qact"):
        for method in MAIN:
            keys = [(study, level, activation, method, s) for s in streams]
            means = [number(fmean(found[k].values()) if k in found else None) for k in keys]
            lines.append(line([activation, f"`{method}`", *means]))
        apart = [number(worst(found, k), "+.1f") for k in keys]  # of the last, which is `safe`
        lines.append(line(["", "worst seed to `source`", *apart]))
    return [*lines, ""]


def ablation(found: Found) -> list[str]:
    """Seed 0: accuracy by study and stream, both activations, and the worst case on clusters."""
    methods = ["source", "batch", "safe", *dict.fromkeys(k[3] for k in found if k[3] not in MAIN)]
    studies = ("digits", "cifar10")
    head = ["", *(f"{study} {stream}" for study in studies for stream in SHORT)]
    head += ["clusters, no shift: worst", "clusters, shifted: worst"]
    lines = ["**Ablation**, hard streams, seed 0, mean of both activations", ""]
    lines += [line(head), line(["---", *["---:"] * (len(head) - 1)])]
    for method in methods:
        cells = [cell(found, study, method, stream) for study in studies for stream in SHORT]
        for levels in (("none",), ("0.8x + 0.3", "1.5x + 1")):
            cells.append(number(lowest(found, method, levels), "+.1f"))
        lines.append(line([f"`{method}`" if method in MAIN else method, *cells]))
    return [*lines, ""]


def cell(found: Found, study: str, method: str, stream: str) -> str:
    """Accuracy of seed 0; what only contexts have is left as it is in the ReLU network."""
    values = []
    for activation in ("relu", "qact"):
        key = (study, "hard", activation, method, stream)
        key = key if key in found else (*key[:3], "safe", stream)
        values.append(found.get(key, {}).get(0))
    return "–" if None in values else number(fmean(values))


def lowest(found: Found, method: str, levels: tuple[str, ...]) -> float | None:
    """The least lead over the source on clusters, over orders, batch sizes and activations."""
    keys = [k for k in found if k[0] == "clusters" and k[1] in levels and k[3] == method]
    apart = [found[k][0] - found[(*k[:3], "source", k[4])][0] for k in keys]
    return min(apart, default=None)


def main() -> None:
    found = read()
    lines: list[str] = []
    for study, level in sorted({k[:2] for k in found}, key=lambda k: (k[1] == "test", k)):
        lines += main_table(found, study, level)
    lines += ablation(found)
    text = "\n".join(lines)
    print(text)
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
