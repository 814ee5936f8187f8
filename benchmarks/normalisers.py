"""Normalisers of attention in one small vision transformer: clean, shifted, longer sequences.

    python benchmarks/normalisers.py digits              # trains and measures what is missing
    python benchmarks/normalisers.py digits --minutes 20 # stops after that time; run it again
    QACT_DATA=DIR python benchmarks/normalisers.py cifar10
    python benchmarks/normalisers.py --table             # the tables of docs/results-normalisers.md

The network is `vit_tiny` at a quarter of its width (6 blocks, 48 features, 3 heads, patches of 4),
trained as `qact bench --model vit_tiny --width 0.25 --normaliser NAME` trains it. The learning rate
is chosen for softmax on validation images; every normaliser has its defaults, none is tuned. A cell
is a network: (normaliser, activation, seed). It is measured on all test images, clean and under
eight corruptions at severity 5, with its stored statistics (`frozen`) and adapted: a
network of GELU by Tent, which trains the LayerNorms on the test stream, one of QAct by the contexts
of the test batch. Longer sequences are a shift of their own: the same clean images cut into patches
at stride 2, the digits also at 1, instead of 4 (`ViT.denser`), so that tokens look as in training
and keys are 3 and 10 times as many. Rows are appended to `benchmarks/data/normalisers/STUDY.csv`
cell by cell.
"""

import argparse
import csv
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import correlation, fmean

import torch

from losses_table import interval
from qact.bench import Data, Model, Recipe, Shift, Training, rival
from qact.bench.data import Inputs, load_inputs
from qact.bench.measure.evaluate import evaluate
from qact.bench.recipe.recipe import USUAL_LOSS
from qact.bench.recipe.rows import wanted
from qact.bench.train.network import Trained, train_cell

NORMALISERS = (
    *("softmax", "rank", "entmax15", "sparsemax", "entmax_learnt", "ssmax", "clipped"),
    *("adaptive_temperature", "self_adjust", "normalised", "stablemax", "taylor", "softplus"),
    *("softpick", "relu", "sigmoid", "ssa", "lssa", "elu", "hedgehog"),
)
ADAPTED = {"gelu": "tent-64", "qact": "batch-200"}
SEEDS, RATES = (0, 1, 2), (1e-3, 2e-3, 4e-3)
STRIDES = {"digits": (2, 1), "cifar10": (2,)}
USUAL = Recipe(
    model=Model("vit_tiny", 0.25), shift=Shift(severities=(0, 5), adaptations=("frozen",))
)
STUDIES = {
    "digits": replace(USUAL, data=Data(size=16), training=Training(epochs=15)),
    "cifar10": replace(
        USUAL,
        data=Data("cifar10", limit=6_000, test_limit=1_000),
        training=Training(epochs=8),
    ),
}
METRICS = ("accuracy", "nll", "ece", "brier")
CELL = ("normaliser", "activation", "seed")
FIELDS = (*CELL, "stride", "adaptation", "corruption", "severity", *METRICS)
DATA = Path(__file__).parent / "data" / "normalisers"
PAGE = Path(__file__).parents[1] / "docs" / "results-normalisers.md"


def trained(recipe: Recipe, activation: str, seed: int, inputs: Inputs) -> Trained:
    with tempfile.TemporaryDirectory() as folder:
        return train_cell(recipe, rival(activation), seed, inputs, Path(folder), lambda n: None)


def chosen(study: str, inputs: Inputs) -> float:
    """The learning rate with which softmax and GELU do best on validation images (seed 0)."""
    path = DATA / "rates.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if study not in known:
        known[study] = {}
        for rate in RATES:
            recipe = STUDIES[study]
            recipe = replace(recipe, training=replace(recipe.training, lr=rate))
            history = trained(recipe, "gelu", 0, inputs).history
            known[study][str(rate)] = round(history[-1]["val_accuracy"], 4)
            print(f"lr {rate:g}: {known[study][str(rate)]}", flush=True)
        path.write_text(json.dumps(known, indent=1) + "\n")
    return float(max(known[study], key=lambda rate: known[study][rate]))


def rows(
    model: torch.nn.Module, recipe: Recipe, activation: str, seed: int, inputs: Inputs
) -> Iterator[dict]:
    """The rows of one trained network; longer sequences on the first 500 images."""
    strides = STRIDES[recipe.data.name]
    both = replace(recipe.shift, adaptations=("frozen", ADAPTED[activation]))
    clean = replace(recipe.shift, severities=(0,), images=500)
    stride = model.patches.stride[0]
    for step, shift in ((stride, both), *((step, clean) for step in strides)):
        asked = replace(recipe, shift=shift)
        cut = model if step == stride else model.denser(step)
        keys = wanted(asked, activation, USUAL_LOSS, seed)
        for row in evaluate(cut, inputs, keys, asked, lambda n: None):
            yield {"stride": step} | {k: row[k] for k in FIELDS[4:]}


def measure(study: str, activations: list[str], names: list[str], minutes: float) -> None:
    end, path = time.monotonic() + 60 * minutes, DATA / f"{study}.csv"
    DATA.mkdir(parents=True, exist_ok=True)
    inputs = load_inputs(STUDIES[study].data)
    recipe = STUDIES[study]
    recipe = replace(recipe, training=replace(recipe.training, lr=chosen(study, inputs)))
    finished = set(read(path)) if path.exists() else set()
    cells = [(n, a, s) for a in activations for s in SEEDS for n in names]
    for cell in (cell for cell in cells if cell not in finished):
        if time.monotonic() > end:
            print("time is up; run it again to go on")
            return
        name, activation, seed = cell
        begin, own = time.monotonic(), replace(recipe, model=replace(recipe.model, normaliser=name))
        model = trained(own, activation, seed, inputs).model
        found = [
            dict(zip(CELL, cell, strict=True)) | r for r in rows(model, own, *cell[1:], inputs)
        ]
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            if new:
                writer.writeheader()
            for row in found:
                writer.writerow(row | {k: round(row[k], 5) for k in METRICS})
        seconds = time.monotonic() - begin
        print(
            f"{name:22} {activation} {seed}  {found[0]['accuracy']:.4f}  {seconds:.1f} s",
            flush=True,
        )


Rows = dict[tuple[str, str, int], list[dict[str, str]]]  # normaliser, activation, seed


def read(path: Path) -> Rows:
    found: Rows = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            found[row["normaliser"], row["activation"], int(row["seed"])].append(row)
    return found


def over(rows: list[dict[str, str]], metric: str = "accuracy", **where: str) -> float:
    """Mean over the rows of one network with these values; severity "+" is any but 0."""
    kept = [
        float(row[metric])
        for row in rows
        if all(row[k] != "0" if v == "+" else row[k] == v for k, v in where.items())
    ]
    return fmean(kept)


def complete(found: Rows) -> list[str]:
    """The normalisers whose networks of GELU are in."""
    return [n for n in NORMALISERS if all((n, "gelu", s) in found for s in SEEDS)]


def table(found: Rows) -> list[str]:
    """Ranked by accuracy under shift, the mean of all regimes that every normaliser has."""
    names = complete(found)
    acts = [a for a in ADAPTED if all((n, a, s) in found for n in names for s in SEEDS)]
    if not names:
        return [f"Not measured yet: {len(found)} networks are in."]
    regimes = [(a, how) for a in acts for how in ("frozen", ADAPTED[a])]
    strides = {int(row["stride"]) for row in next(iter(found.values()))}
    usual, *denser = sorted(strides, reverse=True)

    def seeds(name: str, metric: str, ways: list[tuple[str, str]], **where: str) -> list[float]:
        return [
            fmean(over(found[name, a, s], metric, adaptation=h, **where) for a, h in ways)
            for s in SEEDS
        ]

    shift = {"severity": "+", "stride": str(usual)}
    mean = {n: seeds(n, "accuracy", regimes, **shift) for n in names}
    stored = [(a, "frozen") for a in acts]
    heads = [f"{a}, {how}" for a, how in regimes]
    head = ["", "normaliser", "clean", *heads, "mean", "less softmax"]
    head += [*(f"stride {step}" for step in denser), "longer less softmax", "ECE"]
    longer = {
        n: [
            fmean(pair)
            for pair in zip(
                *(seeds(n, "accuracy", stored, severity="0", stride=str(step)) for step in denser),
                strict=True,
            )
        ]
        for n in names
    }
    lines = ["| " + " | ".join(head) + " |", "|---:|---|" + "---:|" * (len(head) - 2)]
    for place, name in enumerate(sorted(names, key=lambda n: -fmean(mean[n])), 1):
        columns = [
            seeds(name, "accuracy", stored, severity="0", stride=str(usual)),
            *(seeds(name, "accuracy", [way], **shift) for way in regimes),
            mean[name],
        ]
        cells = [str(place), f"`{name}`", *(f"{100 * fmean(c):.1f}" for c in columns)]
        cells.append(_less(mean, name))
        for step in denser:
            value = seeds(name, "accuracy", stored, severity="0", stride=str(step))
            cells.append(f"{100 * fmean(value):.1f}")
        cells += [_less(longer, name), f"{100 * fmean(seeds(name, 'ece', stored, **shift)):.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _less(values: dict[str, list[float]], name: str) -> str:
    pairs = zip(values[name], values["softmax"], strict=True)
    return "" if name == "softmax" else interval([a - b for a, b in pairs])


def summary(found: Rows) -> list[str]:
    """What the page says in words: of accuracy at the usual stride, over all normalisers."""
    usual = str(max(int(row["stride"]) for row in next(iter(found.values()))))
    names = complete(found)

    def means(activation: str, how: str, severity: str) -> list[float]:
        where = {"severity": severity, "stride": usual, "adaptation": how}
        return [fmean(over(found[n, activation, s], **where) for s in SEEDS) for n in names]

    clean, shifted = (means("gelu", "frozen", severity) for severity in ("0", "+"))
    lines = [f"clean and shifted correlate by {correlation(clean, shifted):.2f}"]
    if all((n, "qact", s) in found for n in names for s in SEEDS):
        for act, how in ADAPTED.items():
            all_of = [
                means(act, *which) for which in (("frozen", "0"), ("frozen", "+"), (how, "+"))
            ]
            heads = "clean", "shifted", f"shifted, {how}"
            told = (f"{k} {100 * fmean(v):.1f}" for k, v in zip(heads, all_of, strict=True))
            gains = [100 * (b - a) for a, b in zip(*all_of[1:], strict=True)]
            lines.append(
                f"{act}: {', '.join(told)}; {how} gains {min(gains):.1f} to {max(gains):.1f}"
            )
        pairs = zip(*(means(act, how, "+") for act, how in ADAPTED.items()), strict=True)
        gains = [100 * (ours - theirs) for theirs, ours in pairs]
        lines.append(
            f"adapted, qact less gelu: {fmean(gains):.1f}, {min(gains):.1f} to {max(gains):.1f}, "
            f"softmax {gains[names.index('softmax')]:.1f}"
        )
    return lines


def write_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for study in STUDIES:
        path, (begin, end) = DATA / f"{study}.csv", (f"<!-- {study} -->", f"<!-- /{study} -->")
        if path.exists() and begin in text:
            head, rest = text.split(begin)
            text = f"{head}{begin}\n\n" + "\n".join(table(read(path))) + f"\n\n{end}"
            text += rest.split(end)[1]
            if complete(read(path)):
                print(study, *summary(read(path)), sep="\n  ")
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", choices=STUDIES, nargs="?")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--activation", action="append", choices=ADAPTED, help="gelu, then qact")
    parser.add_argument("--normaliser", action="append", help="this one alone; repeat for more")
    parser.add_argument("--table", action="store_true", help="only write what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table:
        write_page()
    elif options.study is None:
        parser.error("which study? digits or cifar10")
    else:
        names = options.normaliser or list(NORMALISERS)
        measure(options.study, options.activation or list(ADAPTED), names, options.minutes)


if __name__ == "__main__":
    main()
