#!/usr/bin/env bash
# evidently 0.7.23: the drift test "chisquare" takes the reference, which is a sample, for the truth: expected counts
# are its counts times a factor, in a goodness-of-fit test. With as many rows in both, the statistic is twice that of
# two samples. Share of 300 pairs without drift, 500 rows each, with p < 0.05, where 5 % are due:
#   categories                      2       5       10
#   chisquare                       16 %    36 %    51 %
#   z (two categories, pooled)      4 %
#   chi2_contingency of both        4 %     6 %     3 %
# So half of all reports of ten equally frequent categories raise an alarm for nothing; "g_test" is built likewise.
# Way round: a stattest of one's own with chi2_contingency, or a reference many times as large.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: \
    evidently==0.7.23 numpy==2.2.6 pandas==2.2.3 scipy==1.15.3 scikit-learn==1.7.2
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.legacy.calculations.stattests import chi_stat_test, g_test, z_stat_test
from evidently.legacy.core import ColumnType
from evidently.metrics import ValueDrift
from scipy.stats import chi2_contingency

PAIRS, ROWS = 300, 500


def p_value(test, x, y):
    return test.func(pd.Series(x), pd.Series(y), ColumnType.Categorical, 0.05)[0]


def reported(x, y):
    """Return what the report of two columns says."""
    kind = DataDefinition(categorical_columns=["x"])
    new, old = (Dataset.from_pandas(pd.DataFrame({"x": a}), data_definition=kind) for a in (y, x))
    return Report([ValueDrift(column="x", method="chisquare")]).run(new, old).dict()["metrics"][0]["value"]


rng, alarms = np.random.default_rng(0), {}
for k in (2, 5, 10):
    low = alarms[k] = {"chisquare": 0, "g_test": 0, "z": 0, "two samples": 0}
    for _ in range(PAIRS):
        x, y = rng.integers(0, k, (2, ROWS))
        counts = [np.bincount(a, minlength=k) for a in (x, y)]
        low["chisquare"] += p_value(chi_stat_test, x, y) < 0.05
        low["g_test"] += p_value(g_test, x, y) < 0.05
        low["two samples"] += chi2_contingency(counts, correction=False).pvalue < 0.05
        low["z"] += k == 2 and p_value(z_stat_test, x, y) < 0.05
    print(f"evidently {version('evidently')}, {k} categories, p < 0.05 of {PAIRS}:", {a: int(b) for a, b in low.items()})
    assert low["two samples"] < 0.1 * PAIRS and low["z"] < 0.1 * PAIRS, low
assert abs(float(reported(x, y)) - p_value(chi_stat_test, x, y)) < 1e-9  # the report says the same
for test in ("chisquare", "g_test"):
    two, five, ten = (alarms[k][test] / PAIRS for k in (2, 5, 10))
    assert 0.1 < two < 0.25 and 0.25 < five < 0.45 and 0.4 < ten < 0.65, alarms
PY
