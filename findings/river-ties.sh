#!/usr/bin/env bash
# river 0.26.1: two statistics go wrong with tied values; their documentation says nothing of ties.
#   stats.KolmogorovSmirnov of two streams that are the same, value by value (right: 0):
#     all values equal   1.0
#     0, 1 or 2          0.38
#     its tree also counts the steps of the distribution functions inside a group of equal keys, where
#     one stream has been counted and the other has not
#   metrics.RollingROCAUC, "the exact value", of a positive and a negative of one score: 0.0 (right: 0.5); of 200
#     scores in four steps 0.734 (scikit-learn: 0.752)
#     the half of a tie is an integer division, so that an odd count of halves loses one half
# Rounded, counted and quantised values are full of ties. metrics.ROCAUC and scipy.stats.ks_2samp take them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: \
    river==0.26.1 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from river import metrics, stats
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score


def kolmogorov(x, y):
    statistic = stats.KolmogorovSmirnov(statistic="ks")
    for pair in zip(x.tolist(), y.tolist()):
        statistic.update(*pair)
    return statistic.get()


def area(label, score):
    metric = metrics.RollingROCAUC(window_size=len(label))
    for y, p in zip(label, score):
        metric.update(bool(y), float(p))
    return metric.get()


rng = np.random.default_rng(0)
print(f"river {version('river')}")
even, steps, free = np.zeros(100), rng.integers(0, 3, 300), rng.normal(size=(2, 300))
found = {name: kolmogorov(x, x) for name, x in (("even", even), ("steps", steps))}
print("Kolmogorov-Smirnov of a stream with itself:", found)
assert ks_2samp(steps, steps).statistic == 0 and found["even"] == 1 and found["steps"] > 0.25, found
assert abs(kolmogorov(*free) - ks_2samp(*free).statistic) < 1e-9  # without ties it is right

pair = area([0, 1], [0.5, 0.5])
label = rng.integers(0, 2, 200)
score = np.clip((label + rng.normal(size=200)).round() / 3, 0, 1)
coarse, exact = area(label, score), roc_auc_score(label, score)
print(f"ROC area of one tied pair {pair}, of 200 coarse scores {coarse:.3f}, scikit-learn {exact:.3f}")
assert pair == 0 and roc_auc_score([0, 1], [0.5, 0.5]) == 0.5, pair
assert exact - coarse > 0.01, (coarse, exact)
score = rng.random(200)
assert abs(area(label, score) - roc_auc_score(label, score)) < 1e-9  # without ties it is right
PY
