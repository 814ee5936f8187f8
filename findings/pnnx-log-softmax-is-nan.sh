#!/usr/bin/env bash
# pnnx 20261020 and ncnn 1.0.20261020: torch's log_softmax is converted to Softmax and Log, and ncnn's Log of 0 is NaN,
# not -inf. A classifier that is sure of itself has NaN log-probabilities on the device: ten logits, 0 and nine of -g:
#   g                          80     88                                        104
#   torch                      -80    -88                                       -104
#   ncnn, classes 1 .. 9       -80    NaN, and -87.34 where no vector is full   NaN
# So an entropy or a sum over the batch is NaN as well, and which classes are lost depends on their number and on the
# processor's vectors. ncnn's own Softplus and logsumexp, which pnnx writes too, are plain sums of exponentials:
#   softplus(88), (89)   88, inf          logsumexp(88, 88), (89, 89)   88.69, inf         (torch: 89 and 89.69)
# Nothing warns at conversion. Way round: write x - max - log(sum(exp(x - max))) into the model's forward.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6
"$folder/venv/bin/pip" install --quiet --only-binary :all: --no-deps pnnx==20261020 ncnn==1.0.20261020
cd "$folder"
cat > convert.py <<'PY'
import pnnx
import torch
from torch.nn import functional as F


def by_hand(x):
    shifted = x - x.amax(1, keepdim=True)
    return shifted - shifted.exp().sum(1, keepdim=True).log()


functions = {
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "softplus": F.softplus,
    "logsumexp": lambda x: torch.logsumexp(x, 1),
    "by_hand": by_hand,
}
for name, function in functions.items():

    class Model(torch.nn.Module):
        def forward(self, x):
            return function(x)

    pnnx.export(Model().eval(), f"{name}.pt", (torch.zeros(1, 2 if name == "logsumexp" else 10),))
PY
PATH="$folder/venv/bin:$PATH" "$folder/venv/bin/python" -W ignore convert.py > conversion.txt 2>&1
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import ncnn
import numpy as np
import torch


def run(name, x):
    net = ncnn.Net()
    net.opt.num_threads = 1
    assert net.load_param(f"{name}.ncnn.param") == 0 and net.load_model(f"{name}.ncnn.bin") == 0
    extractor, array = net.create_extractor(), np.array([x], "float32")
    extractor.input("in0", ncnn.Mat(array).clone())
    return np.array(extractor.extract("out0")[1]).ravel().copy()


print("ncnn", version("ncnn"), "pnnx", version("pnnx"), "torch", torch.__version__)
for gap in (80, 88, 104):
    logits = [0] + [-gap] * 9
    found, hand = run("log_softmax", logits), run("by_hand", logits)
    right = torch.log_softmax(torch.tensor([logits], dtype=torch.float64), 1)[0].numpy()
    print(f"log_softmax, gap {gap}: ncnn {found.round(2).tolist()}, written by hand {hand.round(2).tolist()}")
    assert np.allclose(right, logits) and np.allclose(hand, right, atol=1e-3)
    lost = np.isnan(found[1:]) | (np.abs(found[1:] + 87.34) < 0.01)
    assert lost.all() if gap > 80 else np.allclose(found, right, atol=1e-3), found
assert np.isnan(found[1:]).all(), found
for name, finite, too_large in (("softplus", [88] * 10, [89] * 10), ("logsumexp", [88, 88], [89, 89])):
    low, high = run(name, finite)[0], run(name, too_large)[0]
    print(f"{name} of {finite[0]} and {too_large[0]}: {low:.2f}, {high}")
    assert abs(low - 88) < 0.7 and np.isinf(high)
PY
