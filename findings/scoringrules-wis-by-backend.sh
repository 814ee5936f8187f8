#!/usr/bin/env bash
# scoringrules 0.10.0 (and 0.11.0, read): `weighted_interval_score` of the numpy, torch and jax backends adds
# w0 * median where the formula of its docstring (Bracher et al. 2021) has w0 * |y - median|; numba's is right, and
# numba is an extra: the score depends on whether it is installed. Median 2, intervals [1, 4] and [1.5, 3] at 0.1 and
# 0.5, by that formula:
#   observation y       5       2       -2
#   by hand, numba      2.01    0.21    3.61
#   numpy               1.81    0.61    3.21
# So a forecast is scored by where it lies (with 100 added to everything, the 2.01 becomes 21.81), and the error of the
# median does not count. numba's is the default where it is installed. Way round: backend="numba".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: scoringrules==0.10.0 numpy==2.2.6 scipy==1.15.3 numba==0.61.2
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import scoringrules as sr

alpha, low, high, median = np.array([0.1, 0.5]), np.array([1.0, 1.5]), np.array([4.0, 3.0]), 2.0


def by_hand(y, shift):
    score = abs(y - median - shift) / 2
    for a, lower, upper in zip(alpha, low + shift, high + shift):
        outside = max(lower - y, 0) + max(y - upper, 0)
        score += a / 2 * (upper - lower + 2 / a * outside)
    return score / (len(alpha) + 0.5)


found = {}
for y, shift in ((5.0, 0.0), (2.0, 0.0), (-2.0, 0.0), (105.0, 100.0)):
    forecast = np.array([y]), np.array([median + shift]), (low + shift)[None], (high + shift)[None], alpha
    said = {b: float(np.squeeze(sr.weighted_interval_score(*forecast, backend=b))) for b in ("numba", "numpy")}
    found[y], right = said["numpy"] - by_hand(y, shift), by_hand(y, shift)
    print(f"observation {y:g}, all + {shift:g}: by hand {right:.2f},", {b: round(v, 2) for b, v in said.items()})
    assert abs(said["numba"] - right) < 1e-9
    assert abs(found[y] - (median + shift - abs(y - median - shift)) / 5) < 1e-9  # w0 / (K + 1/2) is 1/5
print("numpy less by hand:", {y: round(v, 2) for y, v in found.items()})
assert all(abs(v) > 0.1 for v in found.values())
PY
