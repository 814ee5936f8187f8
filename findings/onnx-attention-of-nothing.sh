#!/usr/bin/env bash
# torch 2.13.0 (2.15.0 the same), onnxscript 0.7.2, onnxruntime 1.32.0: a query that may attend to no key, as in a row
# of padding, gets zeros from torch's attention. Exported to ONNX it gets something else, by the kind of mask:
#                     torch   exported
#   mask of booleans   0       the mean of all values, those that are masked too
#   mask of -inf       0       NaN
# The exporter guards the first against NaN, but masks with the lowest finite number, whose softmax is uniform; the
# second is not guarded. Queries that may attend to something are right. Way round: opset_version=23, where the
# exporter writes ONNX's own Attention.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY' 2>"$folder/heard"
import math

import onnxruntime
import torch
from torch.nn import functional as F

torch.manual_seed(0)
print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}")


class Attention(torch.nn.Module):
    def forward(self, query, key, value, mask):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def exported(*given, opset=None):
    program = torch.onnx.export(net, given, dynamo=True, verbose=False, opset_version=opset)
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [i.name for i in session.get_inputs()]
    return torch.from_numpy(session.run(None, {n: x.numpy() for n, x in zip(names, given)})[0])


net = Attention().eval()
query, key, value = torch.randn(3, 1, 1, 3, 4)
allowed = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
minus = torch.zeros(3, 3).masked_fill(~allowed, -math.inf)
for name, mask in (("booleans", allowed), ("-inf", minus)):
    right, got = net(query, key, value, mask)[0, 0], exported(query, key, value, mask)[0, 0]
    print(f"{name:8} torch {right[2].tolist()}, exported {got[2].tolist()}")
    assert right[2].eq(0).all(), right
    if name == "booleans":
        assert torch.allclose(got[2], value[0, 0].mean(0)), got
    else:
        assert got[2].isnan().all(), got
    assert torch.allclose(got[:2], right[:2], atol=1e-6), got
    newer = exported(query, key, value, mask, opset=23)[0, 0]
    assert torch.allclose(newer, right, atol=1e-6), newer
PY
