#!/usr/bin/env bash
# torch 2.13.0, CPU: GroupNorm gives another result for the same numbers when they lie in channels_last.
# Its kernel for that layout sums x and x^2 in float32 and takes the variance as E[x^2] - E[x]^2; the
# kernel for contiguous input merges centred moments. Normal numbers of variance 1, 8 channels of
# 16x16 in 2 groups; the largest error of the output (of the size of 4) against float64:
#   mean      contiguous   channels_last
#   0            5e-7          5e-7
#   1000         7e-5          0.6
#   10000        6e-4          1100     the variance cancels to 0, so epsilon alone is left
# BatchNorm and LayerNorm do not depend on the layout in this way.
# Way round: x.contiguous() before the norm, or its mean taken off.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.nn import functional as F

torch.manual_seed(0)
noise, found = torch.randn(2, 8, 16, 16), {}
print(f"torch {torch.__version__}: largest error of GroupNorm")
for mean in (0, 1000, 10_000):
    x = noise + mean
    exact = F.group_norm(x.double(), 2)
    assert exact.abs().max() < 5
    for layout in (torch.contiguous_format, torch.channels_last):
        y = F.group_norm(x.contiguous(memory_format=layout), 2)
        found[mean, layout] = error = float((y - exact).abs().max())
        print(f"mean {mean:6}, {layout}: {error:.2g}")
    batch = F.batch_norm(x.contiguous(memory_format=torch.channels_last), None, None, training=True)
    assert (batch - F.batch_norm(x.double(), None, None, training=True)).abs().max() < 0.01
assert all(found[mean, torch.contiguous_format] < 0.01 for mean in (0, 1000, 10_000)), found
assert found[0, torch.channels_last] < 1e-5, found
assert found[1000, torch.channels_last] > 0.1, found
assert found[10_000, torch.channels_last] > 100, found
PY
