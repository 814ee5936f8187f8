"""`ShiftRobustClassifier` on tables whose features shift, against the usual classifiers.

    python benchmarks/tabular.py

Three data sets of scikit-learn, half of each to train on; the other half is shifted:

- ``drift``: every feature times ``exp(N(0, 1))`` plus ``N(0, 1)`` training deviations;
- ``monotone``: every standardised feature ``z`` becomes ``sign(z) |z|^p``, ``p`` from 1/3 to 3, and
  drifts;
- ``noise``: half a training deviation of normal noise, which no increasing map undoes;
- ``classes``: nothing but other frequencies: nine in ten samples of the first class are gone.

What adapts gets the unlabelled test half at once. `ranks + logistic` is the simple control: a
`QuantileTransformer` before a logistic regression, fitted anew on the test half.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer, StandardScaler
from torch import nn

from qact.bench.store.files import write_atomically
from qact.integrations.sklearn import ShiftRobustClassifier

DATA = {"breast cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}
SHIFTS = ("none", "drift", "monotone", "noise", "classes")


class BatchNormClassifier(ShiftRobustClassifier):
    """The same perceptron with BatchNorm and ReLU; ``adapt`` takes the statistics of ``X``."""

    def _build(self, features: int, classes: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for size in self.hidden_layer_sizes:
            layers += [nn.Linear(features, size), nn.BatchNorm1d(size), nn.ReLU()]
            features = size
        return nn.Sequential(*layers, nn.Linear(features, classes))

    def adapt(self, X):
        for module in self.network_:
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = 1.0
        with torch.no_grad():
            self.network_.train()(self._inputs(X))
        self.network_.eval()
        return self


def shifted(
    X: np.ndarray, y: np.ndarray, like: np.ndarray, shift: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Test data under a shift, in units of the training data ``like``."""
    random = np.random.default_rng(seed)
    mean, std = like.mean(0), np.where(like.std(0) > 0, like.std(0), 1.0)
    z, features = (X - mean) / std, X.shape[1]
    if shift == "classes":
        keep = (y != y.min()) | (random.random(len(y)) < 0.1)
        return X[keep], y[keep]
    if shift == "noise":
        z = z + 0.5 * random.standard_normal(z.shape)
    if shift == "monotone":
        z = np.sign(z) * np.abs(z) ** np.exp(random.uniform(-np.log(3), np.log(3), features))
    if shift in ("monotone", "drift"):
        z = z * np.exp(random.standard_normal(features)) + random.standard_normal(features)
    return z * std + mean, y


def scores(data: str, shift: str, seed: int) -> dict[str, float]:
    """Accuracy in percent of every method."""
    X, y = DATA[data](return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.5, random_state=seed, stratify=y)
    X_test, y_test = shifted(X_test, y_test, X, shift, seed)
    found = {}
    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    found["logistic regression"] = logistic.fit(X, y).score(X_test, y_test)
    trees = HistGradientBoostingClassifier(random_state=seed, max_iter=50)
    found["gradient boosting"] = trees.fit(X, y).score(X_test, y_test)
    ranks, linear = quantiles(X), LogisticRegression(max_iter=1000)
    linear.fit(ranks.transform(X), y)
    found["ranks + logistic, anew"] = linear.score(quantiles(X_test).transform(X_test), y_test)
    for name, kind in (("BatchNorm", BatchNormClassifier), ("QAct", ShiftRobustClassifier)):
        model = kind(random_state=seed).fit(X, y)
        found[f"{name} MLP, frozen"] = model.score(X_test, y_test)
        found[f"{name} MLP, adapted"] = model.adapt(X_test).score(X_test, y_test)
    return {name: 100 * float(value) for name, value in found.items()}


def quantiles(X: np.ndarray) -> QuantileTransformer:
    number = min(len(X), 200)
    return QuantileTransformer(n_quantiles=number, output_distribution="normal").fit(X)


def table(results: dict) -> str:
    """Mean ± standard deviation over seeds and data sets."""
    names = list(next(iter(results.values()))[0])
    lines = ["| | " + " | ".join(SHIFTS) + " |", "|---|" + "---:|" * len(SHIFTS)]
    for name in names:
        cells = []
        for shift in SHIFTS:
            runs = [results[f"{data}/{shift}"] for data in DATA if f"{data}/{shift}" in results]
            seeds = [statistics.mean(r[name] for r in seed) for seed in zip(*runs, strict=True)]
            cells.append(f"{statistics.mean(seeds):.1f} ± {statistics.stdev(seeds):.1f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data/tabular.json"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = {"command": "python benchmarks/tabular.py", "torch": torch.__version__}
    results = json.loads(options.out.read_text())["accuracy"] if options.out.exists() else {}
    for seed in range(options.seeds):
        for shift in SHIFTS:
            for data in DATA:
                runs = results.setdefault(f"{data}/{shift}", [])
                if len(runs) == seed:
                    runs.append(scores(data, shift, seed))
                    write_atomically(
                        options.out,
                        (json.dumps(about | {"accuracy": results}, indent=1) + "\n").encode(),
                    )
        print(f"seed {seed} done", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
