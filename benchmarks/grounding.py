"""How the grounding of `QAct` was chosen, and where in a residual network its gain sits.

    QACT_DATA=DIR python benchmarks/grounding.py

Three ranks (each side of zero owns half of the mass by the signs of its values, ``sides``; by the
smoothed mass, ``continuous``; or not at all) on two networks, three seeds: the digits bench, and
the slim residual network of `benchmarks/cifar10.py`. Images that nothing was trained or is reported
on (the digits' validation part; 1,000 CIFAR-10 training images behind the 6,000 that the recipe
takes), under the four corruptions kept for validation, severities 1 to 5, with frozen and with
test-batch statistics. Accuracies are written as they come, and the same command goes on where it
was stopped; ``--table`` writes what is there into the page.

What decides was written down before the first result: the score of a rank is the mean accuracy over
both networks, both kinds of statistics, the four corruptions and all severities. Another rank takes
the place of ``sides`` as the default if its score is higher by more than the standard error of that
difference over the six pairs of network and seed. Between two that do so, the higher score wins.
"""

import argparse
import csv
import math
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import qact
from cifar10 import RECIPE, chosen
from defaults import validation
from qact.bench import Recipe, Rival
from qact.bench.data import Inputs, load_inputs, permutation
from qact.bench.measure.adapt import predict
from qact.bench.train.network import train_cell
from qact.datasets.registry import entry

CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
ADAPTATIONS = ("frozen", "batch-200")
NETWORKS = ("digits", "cifar10")
SEEDS = (0, 1, 2)
FRESH = 1_000
FIELDS = ("network", "variant", "seed", "adaptation", "corruption", "severity", "accuracy")
MARKS = ("<!-- grounding -->", "<!-- /grounding -->")
# Where it stands and how it grounds; the rule is asked first, then the place.
VARIANTS = {
    "ReLU": ("everywhere", None),
    "sides": ("everywhere", "sides"),
    "continuous": ("everywhere", "continuous"),
    "ungrounded": ("everywhere", False),
    "sides, after sums": ("sums", "sides"),
    "sides, in branches": ("branches", "sides"),
}
RANKS = ("sides", "continuous", "ungrounded")


def recipes() -> dict[str, Recipe]:
    rates = chosen(Path("benchmarks/data/cifar10"))
    rate = float(max(rates, key=lambda r: statistics.mean(rates[r])))
    slim = replace(RECIPE, training=replace(RECIPE.training, lr=rate))
    return {"digits": Recipe(), "cifar10": slim}


def inputs_of(recipe: Recipe) -> Inputs:
    """The bench's inputs, with images to choose on in the place of the test images."""
    if recipe.data.name == "digits":
        return validation(recipe)
    inputs, limit = load_inputs(recipe.data), recipe.data.limit
    root = Path(os.environ["QACT_DATA"])
    images, labels = entry(recipe.data.name).make.read(root, "train", limit + FRESH)
    fresh = torch.from_numpy(images[limit:]).float() / 255
    labels = torch.from_numpy(labels[limit:]).long()
    return replace(inputs, test_images=fresh, test_labels=labels, _corrupted={}, _parts={})


def rival(variant: str) -> Rival:
    grounded = VARIANTS[variant][1]
    if grounded is None:
        return Rival(variant, lambda channels: nn.ReLU(), "", True)
    return Rival(variant, lambda channels: qact.QAct(channels, grounded=grounded), "", False)


def measure(recipe: Recipe, variant: str, seed: int, inputs: Inputs) -> list[tuple]:
    """Rows of adaptation, corruption, severity and accuracy (percent) of one trained network."""
    recipe = replace(recipe, model=replace(recipe.model, placement=VARIANTS[variant][0]))
    with tempfile.TemporaryDirectory() as folder:
        one = rival(variant)
        model = train_cell(recipe, one, seed, inputs, Path(folder), lambda n: None).model
    order, rows = permutation(len(inputs.test_labels), seed), []
    conditions = [("", 0)] + [(c, s) for c in CORRUPTIONS for s in range(1, 6)]
    for corruption, severity in conditions:
        images = inputs.shifted(corruption, severity, 1)
        for adaptation in ADAPTATIONS:
            right = predict(model, images, adaptation, order).argmax(1) == inputs.test_labels
            accuracy = 100 * right.double().mean().item()
            rows.append((adaptation, corruption or "clean", severity, round(accuracy, 3)))
    return rows


def stored(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []


def mean(rows: list[dict[str, str]], **wanted: object) -> float:
    """Mean accuracy over the rows that agree; severity None is all of 1 to 5."""
    severity = wanted.pop("severity", None)
    chosen_rows = [
        float(row["accuracy"])
        for row in rows
        if all(row[k] == str(v) for k, v in wanted.items())
        and (row["severity"] != "0" if severity is None else row["severity"] == str(severity))
    ]
    return statistics.fmean(chosen_rows)


def spread(rows: list[dict[str, str]], **wanted: object) -> str:
    """Mean and standard deviation over seeds, as a cell of a table."""
    each = [mean(rows, seed=seed, **wanted) for seed in SEEDS]
    return f"{statistics.fmean(each):.1f}±{statistics.stdev(each):.1f}"


def against(rows: list[dict[str, str]], variant: str, other: str) -> tuple[float, float]:
    """Difference of the scores of two variants, and its standard error over network and seed."""
    pairs = [
        mean(rows, variant=variant, network=network, seed=seed)
        - mean(rows, variant=other, network=network, seed=seed)
        for network in NETWORKS
        for seed in SEEDS
    ]
    return statistics.fmean(pairs), statistics.stdev(pairs) / math.sqrt(len(pairs))


def table(rows: list[dict[str, str]]) -> str:
    """Accuracies in Markdown, and by how much each rank's score differs from that of ``sides``."""
    head = ["network", "QAct", "clean"]
    head += [f"{a}, {s}" for a in ADAPTATIONS for s in ("1 to 5", "severity 5")]
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    for network in NETWORKS:
        for variant in VARIANTS:
            where = {"network": network, "variant": variant}
            if sum(all(r[k] == v for k, v in where.items()) for r in rows) < 42 * len(SEEDS):
                continue
            cells = [spread(rows, **where, adaptation="frozen", severity=0)]
            for adaptation in ADAPTATIONS:
                options = where | {"adaptation": adaptation}
                cells += [spread(rows, **options, severity=s) for s in (None, 5)]
            lines.append(f"| {network} | {variant} | " + " | ".join(cells) + " |")
    lines.append("")
    for variant in [v for v in VARIANTS if v not in ("ReLU", "sides")]:
        try:
            difference, error = against(rows, variant, "sides")
        except statistics.StatisticsError:
            continue
        lines.append(f"- *{variant}* less *sides*: {difference:+.2f}, standard error {error:.2f}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data/grounding.csv"))
    parser.add_argument("--page", type=Path, default=Path("docs/benchmark.md"))
    parser.add_argument("--network", choices=NETWORKS, help="only this one")
    parser.add_argument("--table", action="store_true", help="only write what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {(row["network"], row["variant"], row["seed"]) for row in stored(options.out)}
    networks = [options.network] if options.network else NETWORKS
    wanted = [(n, v, s) for v in VARIANTS for n in networks for s in SEEDS]
    wanted.sort(key=lambda one: (one[1] not in ("ReLU", *RANKS), one[2]))
    known, held = recipes(), {}
    for network, variant, seed in [] if options.table else wanted:
        if (network, variant, str(seed)) in done:
            continue
        if network not in held:
            held[network] = inputs_of(known[network])
        rows = measure(known[network], variant, seed, held[network])
        fresh = not options.out.exists()
        with options.out.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([FIELDS] if fresh else [])
            writer.writerows((network, variant, seed, *row) for row in rows)
        shifted = statistics.fmean(row[-1] for row in rows if row[2])
        print(f"{network}, {variant}, seed {seed}: {shifted:.2f}", flush=True)
    text = options.page.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    found = table(stored(options.out))
    options.page.write_text(f"{before}{MARKS[0]}\n\n{found}\n\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
