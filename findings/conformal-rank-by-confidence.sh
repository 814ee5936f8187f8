#!/usr/bin/env bash
# crepes 0.9.1: a prediction interval takes one rank too many where (1 - confidence)(n + 1) is whole.
# 99 residuals 1..99. At confidence 0.9 the conformal interval ends at the 90th of them: the p-value
# of 90.5 is 10/100, which is not above 0.1. crepes ends it at 91: in floating point (1 - 0.9) * 100 is
# 9.999999999999998, and it cuts the decimals. At 0.875, which floating point holds, and at 0.7, where
# the product rounds up, there is no such loss; at 0.8 and with 999 residuals at 0.9 there is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet crepes==0.9.1 numpy==2.2.6 pandas==2.2.3 scikit-learn==1.7.2
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import crepes
import numpy as np

found = {}
for n, confidence in ((99, 0.9), (99, 0.8), (99, 0.7), (99, 0.875), (999, 0.9)):
    regressor = crepes.ConformalRegressor().fit(residuals=np.arange(1.0, n + 1))
    high = regressor.predict_int(y_hat=np.zeros(1), confidence=confidence)[0, 1]
    exact = int(np.ceil(round((n + 1) * confidence, 9)))
    found[n, confidence] = high - exact
    print(f"crepes {crepes.__version__}, n={n}, confidence={confidence}: {high:g}, exact {exact}")
assert found == {(99, 0.9): 1, (99, 0.8): 1, (99, 0.7): 0, (99, 0.875): 0, (999, 0.9): 1}, found
PY
