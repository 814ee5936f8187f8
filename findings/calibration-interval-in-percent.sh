#!/usr/bin/env bash
# uncertainty-calibration 0.1.4: get_calibration_error_uncertainties(alpha=0.1) promises "1-alpha confidence
# intervals"; alpha reaches np.percentile as if it were a percentage, so that the default is an interval of 99.9 %
# instead of 90 %: with its 100 resamples, the range from the smallest to the largest of them.
# 1000 predictions, l1 error, width of the interval over that of all resamples:
#   alpha           0.1     10
#   width / range   1.00    0.7 to 0.8
# An alpha of 0.1 is thus an interval for 10 in 10,000, and no alpha from 0 to 1 gives the usual ones; alpha=10 does.
# (p-lambda/verified_calibration#13 asks about other details of this bootstrap, and is open.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet uncertainty-calibration==0.1.4 numpy==2.2.6 scipy==1.15.3 \
    scikit-learn==1.7.2 parameterized
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import calibration
import numpy as np
from calibration import utils

rng, n = np.random.default_rng(0), 1000
said = rng.random(n)
label = (rng.random(n) < said**1.5).astype(int)
drawn, draw = [], utils.get_calibration_error


def heard(*args, **options):
    drawn.append(draw(*args, **options))
    return drawn[-1]


utils.get_calibration_error = heard  # to see the resamples
print(f"uncertainty-calibration {version('uncertainty-calibration')}")
share = {}
for alpha in (0.1, 10):
    drawn.clear()
    np.random.seed(0)
    low, _, high = calibration.get_calibration_error_uncertainties(said, label, p=1, alpha=alpha)
    error, resamples = drawn[0], np.array(drawn[2:])
    assert drawn[1] == error and len(resamples) == 100
    share[alpha] = (high - low) / np.ptp(resamples)
    ninety = 2 * error - np.quantile(resamples, [0.95, 0.05])  # the basic bootstrap's
    print(f"alpha={alpha}: [{low:.4f}, {high:.4f}], {share[alpha]:.2f} of the range; 90 %: {ninety.round(4)}")
    assert (np.abs(np.array([low, high]) - ninety).max() < 1e-9) == (alpha == 10)
assert share[0.1] > 0.97 and share[10] < 0.85, share
PY
