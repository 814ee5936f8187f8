"""Fit calibrators and heads on the stored predictions of a study, and measure them by severity.

    python benchmarks/calibration.py digits

Reads what `benchmarks/predictions.py` wrote. Everything is fitted on training or validation images
with the same statistics (stored, or of the batch) that the test images get; one estimator measures
all methods. Writes `benchmarks/data/calibration-STUDY.json`: rows are means over corruptions, one
for each (activation, loss, adaptation, head, severity, seed).
"""

import argparse
import json
import platform
import statistics
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from predictions import ADAPTATIONS, HELD_OUT, HELD_OUT_SEVERITIES, STUDIES, cells
from qact import Context, calibration
from qact.bench.data import permutation
from qact.bench.measure.adapt import predict
from qact.bench.store.files import load_tensors
from qact.losses import WatershedClassifier

CALIBRATORS = {
    "temperature": calibration.TemperatureScaling,
    "vector": calibration.VectorScaling,
    "platt": calibration.PlattScaling,
    "isotonic": calibration.IsotonicCalibration,
    "histogram": lambda: calibration.HistogramBinning(10),
    "quantile temperature": calibration.QuantileTemperature,
    "quantile temperature, batch": lambda: calibration.QuantileTemperature("batch"),
}
ALPHA = 0.1


def pairs(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    confidence, predicted = probs.max(1)
    return confidence.clamp(0, 1), predicted == labels


def distinct_error(confidence: Tensor, hit: Tensor) -> float:
    """The debiased squared error in bins of equal confidences.

    What the library behind the published curves does with methods of few distinct values.
    """
    _, index, count = confidence.unique(return_inverse=True, return_counts=True)
    rate = torch.bincount(index, hit.double()) / count
    mean = torch.bincount(index, confidence.double()) / count
    terms = (rate - mean) ** 2 - rate * (1 - rate) / (count - 1).clamp(min=1)
    return (count / len(hit) * terms.where(count > 1, 0)).sum().item()


def measure(probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Every metric of one condition; those of whole rows only where rows are distributions."""
    confidence, hit = pairs(probs, labels)
    squared = {"p": 2, "binning": "equal_mass", "debias": True, "root": False}
    row = {
        "accuracy": hit.double().mean().item(),
        "confidence": confidence.double().mean().item(),
        "ece": calibration.binary_calibration_error(confidence, hit),
        "debiased2": calibration.binary_calibration_error(confidence, hit, **squared),
        "distinct2": distinct_error(confidence, hit),
        "aurc": calibration.selective.selective_risk(confidence, hit)[1].mean().item(),
    }
    if (probs.sum(1) - 1).abs().max() < 1e-5:
        row["nll"] = calibration.negative_log_likelihood(probs, labels)
        row["brier"] = calibration.brier_score(probs, labels)
        row["marginal2"] = calibration.calibration_error(probs, labels, kind="marginal", **squared)
    return row


class Cell:
    """The predictions of one trained network under one adaptation."""

    def __init__(self, tensors: dict[str, Tensor], labels: dict, adaptation: str, seed: int):
        self.tensors, self.labels, self.adaptation = tensors, labels, adaptation
        self.seed = seed
        self.classes = int(labels["train"].max()) + 1

    def logits(self, condition: str) -> Tensor:
        return self.tensors[f"{condition}/{self.adaptation}"][:, : self.classes].double()

    def embedding(self, condition: str) -> Tensor:
        return self.tensors[f"{condition}/{self.adaptation}"][:, self.classes :]

    def heads(self, full: bool) -> Iterator[tuple[str, object]]:
        """Name and ``f(condition) -> probabilities`` of every head."""
        yield "softmax", lambda c: self.logits(c).softmax(1)
        val = self.logits("val/none/0"), self.labels["val"]
        for name, make in CALIBRATORS.items():
            fitted = make().fit(*val)
            yield name, lambda c, fitted=fitted: fitted.predict(self.logits(c))
        train = self.embedding("train/none/0"), self.labels["train"]
        for name in ("nearest", "prototype"):
            stored = WatershedClassifier(name).fit(*train)
            yield name, lambda c, stored=stored: stored.predict_proba(self.embedding(c))
        if len(train[0]) <= 1000:  # every flood is quadratic in the stored samples
            generator = torch.Generator().manual_seed(self.seed)
            flood = WatershedClassifier("watershed", repeats=2, generator=generator).fit(*train)
            yield "watershed", lambda c: flood.predict_proba(self.embedding(c))
        if not full:
            return
        quantile = calibration.QuantileClassifier(train[0].shape[1], self.classes).fit(*train)
        yield "quantile, normalised", lambda c: self._levels(quantile, c, divide=True)
        yield "quantile", lambda c: self._levels(quantile, c)
        prob = calibration.QuantProb(train[0].shape[1], self.classes).fit(*train)
        yield "QuantProb", lambda c: prob(self.embedding(c)).double()

    def _levels(self, model: torch.nn.Module, condition: str, divide: bool = False) -> Tensor:
        x = self.embedding(condition)
        levels = predict(model, x, self.adaptation, permutation(len(x), self.seed)).double()
        return calibration.calibrator.row_normalised(levels) if divide else levels.clamp(0, 1)


def by_severity(conditions: list[tuple[str, int]]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for corruption, severity in conditions:
        found.setdefault(severity, []).append(f"test/{corruption}/{severity}")
    return found


def mean_rows(rows: list[dict[str, float]]) -> dict[str, float]:
    return {k: round(statistics.fmean(row[k] for row in rows), 6) for k in rows[0]}


def head_rows(cell: Cell, severities: dict[int, list[str]], full: bool) -> Iterator[dict]:
    y = cell.labels["test"]
    for name, head in cell.heads(full):
        for severity, conditions in severities.items():
            rows = [measure(head(c), y) for c in conditions]
            yield {"head": name, "severity": severity} | mean_rows(rows)


def map_rows(cell: Cell, severities: dict[int, list[str]]) -> Iterator[dict]:
    y = cell.labels["test"]
    for severity, conditions in severities.items():
        values = [calibration.mean_average_precision(cell.embedding(c), y) for c in conditions]
        yield {"severity": severity, "map": round(statistics.fmean(values), 6)}


def conformal_rows(cell: Cell, severities: dict[int, list[str]]) -> Iterator[dict]:
    """Coverage and size of sets at 90%: from clean images alone, or from corrupted ones too."""
    held = ["val/none/0", *(f"val/{c}/{s}" for c in HELD_OUT for s in HELD_OUT_SEVERITIES)]
    probs = {c: cell.logits(c).softmax(1) for c in held}
    y, pooled = cell.labels["val"], torch.cat(list(probs.values()))
    pooled_y = y.repeat(len(held))
    contexts = [context_of(cell.embedding(c)) for c in held]
    fixed = {
        "split": calibration.SplitConformal(ALPHA).fit(probs["val/none/0"], y),
        "adaptive": calibration.SplitConformal(
            ALPHA, score="adaptive", generator=torch.Generator().manual_seed(0)
        ).fit(probs["val/none/0"], y),
        # The control of the risk of a miss is the (weighted) conformal quantile, without a grid.
        "risk control, pooled": calibration.SplitConformal(ALPHA).fit(pooled, pooled_y),
    }
    for severity, conditions in severities.items():
        found: dict[str, list] = {}
        for c in conditions:
            weights = calibration.context_weights(contexts, context_of(cell.embedding(c)))
            own = calibration.SplitConformal(ALPHA).fit(
                pooled, pooled_y, weights.repeat_interleave(len(y))
            )
            p = cell.logits(c).softmax(1)
            for name, model in (fixed | {"non-exchangeable": own}).items():
                found.setdefault(name, []).append(
                    calibration.coverage(model.predict(p), cell.labels["test"])
                )
        for name, results in found.items():
            yield {
                "method": name,
                "severity": severity,
                "coverage": round(statistics.fmean(r.coverage for r in results), 6),
                "lowest": round(min(r.coverage for r in results), 6),
                "size": round(statistics.fmean(r.size for r in results), 6),
            }


def context_of(embedding: Tensor) -> Context:
    return Context(embedding.shape[1]).add(embedding)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--predictions", type=Path, default=Path("runs/calibration"))
    parser.add_argument("--collect", action="store_true", help="only what is measured already")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # small validation sets: said in the docs
    folder = options.predictions / options.study
    labels, _ = load_tensors(folder / "labels.safetensors")
    severities = by_severity(STUDIES[options.study][0].shift.conditions())
    found: dict[str, list] = {"heads": [], "map": [], "conformal": [], "training": []}
    for activation, loss, seed in cells(options.study):
        path = folder / f"{activation}-{loss}-{seed}.safetensors"
        if not path.exists():
            print(f"missing: {path.stem}", flush=True)
            continue
        cached = folder / "rows" / f"{path.stem}.json"
        if options.collect and not cached.exists():
            print(f"not measured: {path.stem}", flush=True)
            continue
        if not cached.exists():
            tensors, notes = load_tensors(path)
            part: dict[str, list] = {name: [] for name in found}
            own = {"activation": activation, "loss": loss, "seed": seed}
            part["training"].append(own | json.loads(notes["about"]))
            for adaptation in ADAPTATIONS:
                cell, key = (
                    Cell(tensors, labels, adaptation, seed),
                    own | {"adaptation": adaptation},
                )
                full = loss in ("cross_entropy", "watershed")
                part["heads"] += [key | row for row in head_rows(cell, severities, full)]
                part["map"] += [key | row for row in map_rows(cell, severities)]
                part["conformal"] += [key | row for row in conformal_rows(cell, severities)]
            cached.parent.mkdir(exist_ok=True)
            cached.write_text(json.dumps(part))
            print(f"measured: {path.stem}", flush=True)
        for name, rows in json.loads(cached.read_text()).items():
            found[name] += rows
    about = {
        "command": f"python benchmarks/calibration.py {options.study}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "images": {name: len(y) for name, y in labels.items()},
    }
    lines = {k: "[\n  " + ",\n  ".join(json.dumps(r) for r in v) + "\n ]" for k, v in found.items()}
    body = ",\n ".join(f'"{k}": {v}' for k, v in lines.items())
    out = Path("benchmarks/data") / f"calibration-{options.study}.json"
    out.write_text(f'{{\n "about": {json.dumps(about)},\n {body}\n}}\n')
    print(out)


if __name__ == "__main__":
    main()
