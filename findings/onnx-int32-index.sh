#!/usr/bin/env bash
# torch 2.13.0: the ONNX exporter (dynamo=True, the default) writes a model that is not valid ONNX
# for `t[index]` with an index of int32. PyTorch takes such an index; the exporter hands it as it is
# to GatherND, whose indices are int64 by the standard:
#   int64  the checker of onnx 1.23.2 is content, onnxruntime 1.32.0 gives t[index]
#   int32  exported without a word; checker and onnxruntime refuse the model by its types
# Way round: `t[index.long()]`, or index_select, whose index may be int32 in ONNX.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import onnx
import onnxruntime
import torch


class Rows(torch.nn.Module):
    def forward(self, table, index):
        return table[index]


class Select(torch.nn.Module):
    def forward(self, table, index):
        return table.index_select(0, index)


print(f"torch {torch.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}")
table, found = torch.arange(12.0).reshape(3, 4), {}
for net in (Rows(), Select()):
    for dtype in (torch.int64, torch.int32):
        index = torch.tensor([2, 0, 1], dtype=dtype)
        right = net(table, index)
        torch.onnx.export(net, (table, index), dynamo=True, verbose=False).save("net.onnx")
        said = []
        try:
            onnx.checker.check_model(onnx.load("net.onnx"), full_check=True)
        except Exception as error:
            said.append(f"checker: {str(error).splitlines()[0][:140]}")
        try:
            session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
            given = {i.name: a.numpy() for i, a in zip(session.get_inputs(), (table, index))}
            assert torch.equal(torch.from_numpy(session.run(None, given)[0]), right)
        except AssertionError:
            raise
        except Exception as error:
            said.append(f"onnxruntime: {str(error).splitlines()[0][:140]}")
        found[type(net).__name__, dtype] = len(said)
        print(type(net).__name__, dtype, "valid and right" if not said else "\n  ".join(["", *said]))
assert found == {
    ("Rows", torch.int64): 0, ("Rows", torch.int32): 2,
    ("Select", torch.int64): 0, ("Select", torch.int32): 0,
}, found
PY
