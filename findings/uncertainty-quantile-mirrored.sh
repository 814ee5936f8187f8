#!/usr/bin/env bash
# uncertainty-toolbox 0.1.1: with prop_type="quantile" the observed proportions are those above the
# mirrored quantile, not below the predicted one, and the recalibration built on them moves the wrong way.
# It compares (y_pred - y_true) / y_std with the quantile of a standard normal; below the predicted
# quantile is where (y_true - y_pred) / y_std is. The absolute areas and errors over all levels are the
# same by symmetry; the curve and what is fitted to it are not. Truth N(1, 1), predicted N(0, 1):
#   share of the truth below the predicted median: 0.155; get_proportion_under_quantile says 0.845
#   median after get_quantile_recalibrator: -0.99, where 1.0 is right and 0 was predicted
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: \
    uncertainty-toolbox==0.1.1 numpy==2.2.6 scipy==1.15.3 scikit-learn==1.7.2
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from uncertainty_toolbox.metrics_calibration import (
    get_proportion_lists_vectorized,
    get_proportion_under_quantile,
)
from uncertainty_toolbox.recalibration import get_quantile_recalibrator

rng, n = np.random.default_rng(0), 20_000
y_true, y_pred, y_std = rng.normal(1, 1, n), np.zeros(n), np.ones(n)
below = np.mean(y_true <= 0)  # the predicted median is 0
said = get_proportion_under_quantile(y_pred, y_std, y_true, 0.5)
level, curve = get_proportion_lists_vectorized(
    y_pred, y_std, y_true, num_bins=11, prop_type="quantile"
)
median = float(get_quantile_recalibrator(y_pred, y_std, y_true)(y_pred[:1], y_std[:1], 0.5)[0])
print(f"uncertainty-toolbox {version('uncertainty-toolbox')}")
print(f"share below the predicted median: {below:.3f}, said {said:.3f}")
print(f"median: true {np.median(y_true):.3f}, recalibrated {median:.3f}, predicted 0")
assert abs(below - 0.155) < 0.01 and abs(said - (1 - below)) < 1e-9, (below, said)
assert level[5] == 0.5 and abs(curve[5] - said) < 1e-9, (level, curve)
assert abs(median + 1) < 0.03, median
PY
