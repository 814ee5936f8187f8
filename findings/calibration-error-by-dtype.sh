#!/usr/bin/env bash
# torchmetrics 1.9.0 (torch 2.13.0): the expected calibration error depends on the dtype of the
# confidences by more than rounding. Two predictions, 0.3 (right) and 0.35 (wrong), ten bins:
#   float32  0.175   both in one bin
#   float64  0.525   one in each of two bins
# In float64 torch.linspace(0, 1, 11)[3] is not 0.3 but the next number above, so the confidence 0.3
# falls below its edge; in float32 it is 0.3. With 15 bins, the default, it is the other way round:
# six of the fourteen inner edges are off in float32, one in float64. Confidences that are shares of votes, or rounded
# to decimals, lie on such edges.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$folder/venv/bin/pip" install --quiet --no-deps torchmetrics==1.9.0 lightning-utilities==0.15.3
"$folder/venv/bin/pip" install --quiet packaging typing_extensions
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import torch
import torchmetrics
from torchmetrics.functional.classification import binary_calibration_error

found = {}
for dtype in (torch.float32, torch.float64):
    confidence, hit = torch.tensor([0.3, 0.35], dtype=dtype), torch.tensor([1, 0])
    found[dtype] = float(binary_calibration_error(confidence, hit, n_bins=10))
    off = [
        (bins, k)
        for bins in (10, 15)
        for k in range(1, bins)
        if torch.linspace(0, 1, bins + 1, dtype=dtype)[k] != torch.tensor(k / bins, dtype=dtype)
    ]
    print(f"torchmetrics {torchmetrics.__version__}, {dtype}: {found[dtype]:.4f}; edges off: {off}")
assert abs(found[torch.float32] - 0.175) < 1e-4, found
assert abs(found[torch.float64] - 0.525) < 1e-4, found
PY
