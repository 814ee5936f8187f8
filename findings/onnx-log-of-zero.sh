#!/usr/bin/env bash
# torch 2.13.0, onnxscript 0.7.2: the ONNX exporter writes logsigmoid(x) as Log(Sigmoid(x)) and logaddexp(x, y) as
# Log(Exp(x) + Exp(y)), which torch takes care not to do. onnxruntime 1.32.0, float32:
#   x                            -15         -20     -100    200
#   logsigmoid, torch            -15         -20     -100    0
#   logsigmoid, exported         -14.84      -inf    -inf    0       (its Sigmoid is rational, and 0 below -18)
#   logaddexp(x, x), torch       -14.31      -19.31  -99.31  200.69
#   logaddexp(x, x), exported    -14.31      -19.31  -99.29  inf
#   binary_cross_entropy_with_logits of a logit of -20 and the target 1: 20, exported inf
#   logcumsumexp of -300, -220, 0: the same; exported -inf, -inf, 0   (one maximum for the whole row)
# Forget gates of linear attention, CTC and mixtures of densities add such logarithms up; the difference of two
# infinite ones is NaN. Way round: -softplus(-x), which is exported as ONNX's Softplus and finite.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import logging

import onnxruntime
import torch
from torch.nn import functional as F

logging.disable(logging.CRITICAL)


def exported(function, x):
    class Model(torch.nn.Module):
        def forward(self, x):
            return function(x)

    program = torch.onnx.export(Model(), (x,), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return torch.as_tensor(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def loss(x):
    return F.binary_cross_entropy_with_logits(x, torch.ones(4), reduction="none")


cases = {
    "logsigmoid": F.logsigmoid,
    "logaddexp": lambda x: torch.logaddexp(x, x.clone()),
    "loss": loss,
    "logcumsumexp": lambda x: torch.logcumsumexp(x[[2, 1, 3]] - x[3], 0),
    "-softplus": lambda x: -F.softplus(-x),
}
x, found = torch.tensor([-15.0, -20, -100, 200]), {}
print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}")
for name, function in cases.items():
    said, exact, found[name] = function(x), function(x.double()), exported(function, x)
    print(f"{name:14} torch {said.tolist()}, exported {found[name].tolist()}")
    assert (said - exact).abs().max() < 1e-4, name
infinite = {name: y.isinf().tolist() for name, y in found.items()}
assert infinite["logsigmoid"] == infinite["loss"] == [False, True, True, False], infinite
assert infinite["logaddexp"] == [False, False, False, True], infinite
assert infinite["logcumsumexp"] == [True, True, False], infinite
assert (found["-softplus"] - F.logsigmoid(x)).abs().max() < 1e-5
PY
