#!/usr/bin/env bash
# whylogs 1.6.4: the drift algorithm ChiSquare cuts the decimals of expected counts, and a category of which less than
# one is expected makes the statistic infinite, the p-value 0. A reference of 9900 a and 100 b; of a new batch of 99,
# as close to it as can be, 98 are a and 1 is b:
#   whylogs            p = 0        "DRIFT"
#   chi2_contingency   p = 0.99
# Any rare category does that as soon as it appears in a batch. It also takes the reference for the truth, so that of
# 100 pairs of 500 rows without drift p < 0.05 in 17 (2 categories), 33 (5) and 55 (10); chi2_contingency 3 to 4.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: \
    whylogs==1.6.4 numpy==1.26.4 pandas==2.2.3 scipy==1.14.1 ipython
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
from importlib.metadata import version

import numpy as np
import pandas as pd
import whylogs
from scipy.stats import chi2_contingency
from whylogs.viz.drift.column_drift_algorithms import ChiSquare


def said(*samples):
    """Return the score of two samples (reference, new) of category numbers."""
    views = [whylogs.log(pd.DataFrame({"x": [f"c{i}" for i in x]})).view().get_column("x") for x in samples]
    return ChiSquare().calculate(views[1], views[0], with_thresholds=True)


def exact(*samples):
    k = max(map(max, samples)) + 1
    return chi2_contingency([np.bincount(x, minlength=k) for x in samples], correction=False).pvalue


rare = np.repeat([0, 1], [9900, 100]), np.repeat([0, 1], [98, 1])
score = said(*rare)
print(f"whylogs {version('whylogs')}: p {score.pvalue}, {score.drift_category}; two samples {exact(*rare):.3f}")
assert score.pvalue == 0 and score.statistic == np.inf and exact(*rare) > 0.9, score
assert str(score.drift_category) == "DRIFT", score.drift_category

rng, alarms = np.random.default_rng(0), {}
for k in (2, 5, 10):
    pairs = [rng.integers(0, k, (2, 500)) for _ in range(100)]
    alarms[k] = sum(said(*p).pvalue < 0.05 for p in pairs), sum(exact(*p) < 0.05 for p in pairs)
    print(f"{k} categories, p < 0.05 of 100: whylogs {alarms[k][0]}, two samples {alarms[k][1]}")
assert alarms[2][0] > 9 and alarms[5][0] > 20 and alarms[10][0] > 40, alarms
assert max(two for _, two in alarms.values()) <= 10, alarms
PY
