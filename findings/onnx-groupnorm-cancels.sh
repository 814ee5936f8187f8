#!/usr/bin/env bash
# onnx 1.23.2, onnxruntime 1.32.0, torch 2.13.0: the standard defines GroupNormalization by a function
# body whose variance is MeanOfSquare - SquareOfMean, by default in float32. onnxruntime's CPU has
# no kernel for it and runs that body; torch exports nn.GroupNorm to it from opset 21 on, and to
# InstanceNormalization before. Normal numbers of variance 1; largest error of the output against
# float64, by opset of the same model:
#   mean        torch     opset 20   opset 21
#   0           3e-7        3e-7       4e-7
#   1000        3e-5        1e-4       0.5
#   10000       1e-3        2e-3       nan     the variance comes out below zero
# Way round: opset 20, or the mean taken off before the norm.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import math

import onnx
import onnxruntime
import torch
from torch.nn import functional as F

torch.manual_seed(0)
noise, found = torch.randn(2, 4, 16, 16), {}
names = {}
for opset in (20, 21):
    model = torch.nn.GroupNorm(2, 4).eval()
    program = torch.onnx.export(model, (noise,), dynamo=True, opset_version=opset, verbose=False)
    program.save(f"{opset}.onnx")
    names[opset] = [node.op_type for node in onnx.load(f"{opset}.onnx").graph.node]
print(f"torch {torch.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")
print(names)
for mean in (0, 1000, 10_000):
    x = noise + mean
    exact = F.group_norm(x.double(), 2)
    found[mean, "torch"] = float((F.group_norm(x, 2) - exact).abs().max())
    for opset in (20, 21):
        session = onnxruntime.InferenceSession(f"{opset}.onnx", providers=["CPUExecutionProvider"])
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        found[mean, opset] = float((torch.from_numpy(y) - exact).abs().max())
    print(f"mean {mean:6}:", *(f"{key}: {found[mean, key]:.1g}" for key in ("torch", 20, 21)))
assert "InstanceNormalization" in names[20] and "GroupNormalization" in names[21], names
assert all(found[mean, key] < 0.01 for mean in (0, 1000, 10_000) for key in ("torch", 20)), found
assert found[0, 21] < 1e-5 and found[1000, 21] > 0.1 and math.isnan(found[10_000, 21]), found
PY
