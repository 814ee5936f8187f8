"""Print the tables of safe adaptation, and write the shorter ones into docs/adaptation.md.

python benchmarks/safe_table.py
"""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean

ROWS, PAGE = Path("benchmarks/data/safe.csv"), Path("docs/adaptation.md")
BEGIN, END = "<!-- safe -->", "<!-- /safe -->"
MAIN = ("source", "batch", "safe")
STUDIES = ("digits", "cifar10")
HARD = [
    (study, "hard", stream)
    for study in STUDIES
    for stream in ("iid-64", "sorted-64", "mixed-64", "continual-64", "iid-4")
]
SEVERE = [
    (study, level, stream)
    for study in STUDIES
    for level in ("collapse", "exposure")
    for stream in ("iid-64", "continual-64")
]
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


def leads(found: Found, key: tuple, over: str) -> list[float]:
    """How far a cell is above that of another method, in points, for each seed of both."""
    other = found.get((*key[:3], over, key[4]), {})
    return [value - other[seed] for seed, value in found.get(key, {}).items() if seed in other]


def kept(found: Found, key: tuple) -> float | None:
    """The share of the gain of `batch` that a cell has, in %, from means over the seeds."""
    gain = leads(found, (*key[:3], "batch", key[4]), "source")
    mine = leads(found, key, "source")
    return 100 * fmean(mine) / fmean(gain) if mine and fmean(gain) > 0.5 else None


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def number(value: float | None, form: str = ".1f") -> str:
    return "–" if value is None else f"{value:{form}}"


def summary(found: Found, parts: list[tuple]) -> list[str]:
    """The two aims and the continual stream, for each study, level and activation."""
    head = ["", "", "cells", "worst lead on `source`", "cells below -1"]
    head += ["share of the i.i.d. gain, %", "continual, lead on `batch`"]
    lines = ["**Summary**, three seeds", "", line(head), line(["---", "---", *["---:"] * 5])]
    for part in parts:
        for activation in ("relu", "qact"):
            mine = [k for k in found if k[:4] == (*part, activation, "safe")]
            apart = [lead for k in mine for lead in leads(found, k, "source")]
            cell = (*part, activation, "safe")
            shares = kept(found, (*cell, "iid-64"))
            continual = leads(found, (*cell, "continual-64"), "batch")
            low = str(sum(lead < -1.005 for lead in apart))
            cells = [
                ", ".join(part),
                activation,
                str(len(apart)),
                number(min(apart, default=None), "+.1f"),
                low,
            ]
            cells += [
                number(shares, ".0f"),
                number(fmean(continual) if continual else None, "+.1f"),
            ]
            lines.append(line(cells))
    return [*lines, ""]


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
        apart = [number(min(leads(found, k, "source"), default=None), "+.1f") for k in keys]
        lines.append(line(["", "worst seed to `source`", *apart]))
    return [*lines, ""]


def ablation(found: Found, columns: list[tuple], clusters: bool) -> list[str]:
    """Seed 0: accuracy by column, mean of both activations, and the worst case on clusters."""
    methods = ["source", "batch", "safe", *dict.fromkeys(k[3] for k in found if k[3] not in MAIN)]
    levels = ", ".join(dict.fromkeys(level for _, level, _ in columns))
    head = ["", *(" ".join(c if levels != "hard" else (c[0], c[2])) for c in columns)]
    head += ["clusters, no shift: worst", "clusters, shifted: worst"] if clusters else []
    lines = [f"**Ablation**, {levels}, seed 0, mean of both activations", ""]
    lines += [line(head), line(["---", *["---:"] * (len(head) - 1)])]
    for method in methods:
        cells = [cell(found, method, *column) for column in columns]
        for levels in (("none",), ("0.8x + 0.3", "1.5x + 1")) if clusters else ():
            cells.append(number(lowest(found, method, levels), "+.1f"))
        lines.append(line([f"`{method}`" if method in MAIN else method, *cells]))
    return [*lines, ""]


def cell(found: Found, method: str, study: str, level: str, stream: str) -> str:
    """Accuracy of seed 0; what only contexts have is left as it is in the ReLU network."""
    values = []
    for activation in ("relu", "qact"):
        same = activation == "relu" and method == "contexts by moments"
        key = (study, level, activation, "safe" if same else method, stream)
        values.append(found.get(key, {}).get(0))
    return "–" if None in values else number(fmean(values))


def lowest(found: Found, method: str, levels: tuple[str, ...]) -> float | None:
    """The least lead over the source on clusters, over orders, batch sizes and activations."""
    keys = [k for k in found if k[0] == "clusters" and k[1] in levels and k[3] == method]
    return min((found[k][0] - found[(*k[:3], "source", k[4])][0] for k in keys), default=None)


def main() -> None:
    found = read()
    parts = sorted({k[:2] for k in found}, key=lambda k: (k[1] == "test", k))
    text = "\n".join(
        [
            *summary(found, parts),
            *(text for p in parts if p[1] == "test" for text in main_table(found, *p)),
            *ablation(found, HARD, clusters=True),
            *ablation(found, SEVERE, clusters=False),
        ]
    )
    print(text)
    print("\n".join(text for p in parts if p[1] != "test" for text in main_table(found, *p)))
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
