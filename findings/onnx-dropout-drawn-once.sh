#!/usr/bin/env bash
# torch 2.13.0, onnxscript 0.7.2: a model that draws five dropout masks in one forward pass (Monte Carlo dropout) draws
# one after `torch.onnx.export`: its optimiser, on by default, takes equal nodes for equal values, and random nodes are
# equal. The five samples are the same, and the uncertainty they are drawn for is 0. onnxruntime 1.32.0 does so with
# Bernoulli on its own, at its default level, and the three optimisers often run afterwards with every random node.
# Standard deviation over five samples, mean of 1,000 units:
#                                            dropout   bernoulli   rand_like
#   torch                                    0.86      0.43        0.24
#   export, optimize=False, nothing else     0.84      0.42        0.24
#   export (default)                         0         0           0.24
#   optimize=False, onnxruntime's default    0.84      0           0.24
#   optimize=False, onnxslim 0.1.98          0         0           0
#   optimize=False, onnxsim 0.8.1            0         0           0
#   optimize=False, onnxoptimizer 0.4.2      0         0           0
# Way round: optimize=False and no Bernoulli; or one pass of the session per sample; or rand_like(x) < p.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
"$folder/venv/bin/pip" install --quiet --only-binary :all: onnxslim==0.1.98 onnxsim==0.8.1 onnxoptimizer==0.4.2
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import logging

import numpy as np
import onnx
import onnxoptimizer
import onnxruntime
import onnxsim
import onnxslim
import torch
from torch.nn import functional as F

logging.disable(logging.CRITICAL)
onnxruntime.set_default_logger_severity(4)
LEVEL = onnxruntime.GraphOptimizationLevel
draws = {
    "dropout": lambda x: F.dropout(x, 0.5, True),
    "bernoulli": lambda x: torch.bernoulli(x / 2),
    "rand_like": torch.rand_like,
}


def copy(model):
    return onnx.ModelProto.FromString(model.SerializeToString())


def spread(model, level=LEVEL.ORT_DISABLE_ALL):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {i.name: np.ones((1, 1000), "float32") for i in session.get_inputs()}
    return float(session.run(None, feed)[0].std(0).mean())


def measured(draw):
    class Model(torch.nn.Module):
        def forward(self, x):
            return torch.stack([draw(x) for _ in range(5)])

    model, x = Model().train(), torch.ones(1, 1000)
    plain, default = (
        torch.onnx.export(model, (x,), dynamo=True, verbose=False, optimize=o).model_proto for o in (False, True)
    )
    return {
        "torch": float(model(x).std(0, unbiased=False).mean()),
        "plain": spread(plain),
        "export": spread(default),
        "onnxruntime": spread(plain, LEVEL.ORT_ENABLE_ALL),
        "onnxslim": spread(onnxslim.slim(copy(plain))),
        "onnxsim": spread(onnxsim.simplify(copy(plain))[0]),
        "onnxoptimizer": spread(onnxoptimizer.optimize(copy(plain))),
    }


print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}: spread of five samples")
merged = {}
for name, draw in draws.items():
    found = measured(draw)
    print(f"{name:10}", {tool: round(value, 2) for tool, value in found.items()})
    merged[name] = {tool for tool, value in found.items() if value < 1e-6}
    assert all(value < 1e-6 or value > 0.2 for value in found.values()), found
others = {"onnxslim", "onnxsim", "onnxoptimizer"}
assert merged == {
    "dropout": others | {"export"},
    "bernoulli": others | {"export", "onnxruntime"},
    "rand_like": others,
}, merged
PY
