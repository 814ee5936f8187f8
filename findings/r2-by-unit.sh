#!/usr/bin/env bash
# torchmetrics 1.9.0: `R2Score` takes sums of squares below 0.0001 for zero, whatever the unit of the values is, and
# two zeros for a perfect fit. Predictions 4, 3, 2, 1 of the targets 1, 2, 3, 4, whose R2 is -3:
#   times       1     0.003   0.001   0.0001
#   R2Score     -3    0       1       1          1 is "perfect"
#   the rest    -3    -3      -3      -3         scikit-learn's r2_score; torchmetrics' ExplainedVariance
# A loss in metres, a rate per second, a probability of rare events: 100 values that vary by 0.0005 have less.
# Way round: divide targets and predictions by one and the same number, as the targets' standard deviation.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5 scikit-learn==1.9.1
"$folder/venv/bin/pip" install --quiet --no-deps torchmetrics==1.9.0 lightning-utilities==0.15.3
"$folder/venv/bin/pip" install --quiet packaging typing_extensions
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import torch
import torchmetrics
from sklearn.metrics import r2_score
from torchmetrics.regression import ExplainedVariance, R2Score

print(f"torchmetrics {torchmetrics.__version__}")
targets = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
found = {}
for unit in (1, 0.003, 0.001, 0.0001):
    y, guess = targets * unit, targets.flip(0) * unit
    found[unit] = round(float(R2Score()(guess, y)), 6)
    print(f"times {unit}: R2Score {found[unit]}, scikit-learn {r2_score(y, guess):.6f}")
    assert abs(r2_score(y, guess) + 3) < 1e-6
    assert abs(float(ExplainedVariance()(guess, y)) + 3) < 1e-6
    assert abs(float(R2Score()(guess / y.std(), y / y.std())) + 3) < 1e-6
assert found == {1: -3, 0.003: 0, 0.001: 1, 0.0001: 1}, found
rare = 0.0005 * torch.randn(100, generator=torch.Generator().manual_seed(0))
assert r2_score(rare, rare.flip(0)) < -0.5
assert float(R2Score()(rare.flip(0), rare)) == 1
PY
