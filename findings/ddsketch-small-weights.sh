#!/usr/bin/env bash
# ddsketch 3.0.1: `add(value, weight)` takes any weight above 0, and the quantiles depend on the unit of the weights:
# the rank is q (sum of weights - 1). Weights that sum to 1, as probabilities do, give the least value for every q;
# below 1 the values come back with a minus sign. 1, 2, .. 100, relative accuracy 1 %:
#   each weight   sum    median    0.9-quantile
#   1             100    49.9      89.1
#   0.1           10     45.2      80.7
#   0.01          1      1         1
#   0.005         0.5    -1        -1         no value is negative
# "the value at the specified quantile", within 1 %, holds for weights of 1. Way round: weights with a large sum.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: ddsketch==3.0.1
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from ddsketch import DDSketch

print("ddsketch", version("ddsketch"))
found = {}
for weight in (1.0, 0.1, 0.01, 0.005):
    sketch = DDSketch(0.01)
    for value in range(1, 101):
        sketch.add(float(value), weight)
    found[weight] = [round(sketch.get_quantile_value(q), 2) for q in (0.5, 0.9)]
    print(f"weights of {weight}, sum {sketch.count:.2f}: median and 0.9-quantile {found[weight]}")
assert abs(found[1.0][0] - 50) < 1 and abs(found[1.0][1] - 90) < 1.5, found
assert abs(found[0.1][1] - 90) > 5, found
assert all(abs(v - 1) < 0.02 for v in found[0.01]) and all(abs(v + 1) < 0.02 for v in found[0.005]), found
PY
