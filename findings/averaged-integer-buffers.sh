#!/usr/bin/env bash
# torch 2.13.0: averaging a model together with its buffers goes wrong for every model that has a
# BatchNorm, because its counter `num_batches_tracked` is an integer.
#   AveragedModel(use_buffers=True)                 the mean of 1 ... 50 comes out as 1, not 25 or 26
#   ... multi_avg_fn=get_ema_multi_avg_fn(0.9)      sticks at 40 (exact average: 41.05), for ever 9 to 10 behind
#   ... multi_avg_fn=get_swa_multi_avg_fn()         RuntimeError: Integer division with addcdiv ...
# Each step is rounded towards zero in the integer's dtype. A BatchNorm with momentum=None, which
# weighs a batch by one over that counter, goes on from there with the wrong weight.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch import nn
from torch.optim import swa_utils

STEPS = 50


def counter(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    averaged = swa_utils.AveragedModel(model, use_buffers=True, **options)
    for _ in range(STEPS):
        model(torch.randn(8, 2))
        averaged.update_parameters(model)
    assert model[1].num_batches_tracked == STEPS
    return int(averaged.module[1].num_batches_tracked)


exact = 1.0
for step in range(2, STEPS + 1):
    exact += 0.1 * (step - exact)
mean, ema = counter(), counter(multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
print(f"torch {torch.__version__}: mean of 1 ... {STEPS} is {mean}")
print(f"moving average is {ema}, exactly {exact:.2f}")
assert mean == 1, mean
assert ema == 40 and exact > 41, (ema, exact)
try:
    counter(multi_avg_fn=swa_utils.get_swa_multi_avg_fn())
except RuntimeError as error:
    print("get_swa_multi_avg_fn:", str(error).split(",")[0])
    assert "Integer division" in str(error)
else:
    raise SystemExit("get_swa_multi_avg_fn no longer raises")
PY
