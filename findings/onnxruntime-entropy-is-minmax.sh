#!/usr/bin/env bash
# onnxruntime 1.32.0: quantize_static(calibrate_method=CalibrationMethod.Entropy) clips nothing: its
# range is that of MinMax. The search for the threshold of least KL divergence goes from
# num_quantized_bins to num_bins, quantize_static gives both their default 128, and has no option for
# them, so that one candidate is tried: all of the range. (Batches that widen the histogram add bins
# and with them candidates, so that the result depends on their order too.) One input of 100,000
# normal numbers, one of them set to 1000; the width of the range that its int8 codes span:
#   MinMax      1004.5
#   Entropy     1004.5
#   Percentile     8.8
#   Entropy with num_bins=8192 of create_calibrator: far narrower
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.3.5 onnx==1.23.2 onnxruntime==1.32.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY' 2>&1 | grep -v "WARNING:root"
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static
from onnxruntime.quantization.calibrate import create_calibrator

rng = np.random.default_rng(0)
x = rng.standard_normal((1, 100_000)).astype(np.float32)
x[0, 0] = 1000
weight = numpy_helper.from_array(rng.standard_normal((100_000, 2)).astype(np.float32), "w")
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")], "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 100_000])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])], [weight],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "m.onnx")


class Reader(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"x": x}] * 4)

    def get_next(self):
        return next(self.batches, None)


print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}")
width = {}
for method in (CalibrationMethod.MinMax, CalibrationMethod.Entropy, CalibrationMethod.Percentile):
    quantize_static("m.onnx", "q.onnx", Reader(), calibrate_method=method)
    made = {t.name: numpy_helper.to_array(t) for t in onnx.load("q.onnx").graph.initializer}
    width[method.name] = 255 * float(made["x_scale"])
finer = create_calibrator(
    "m.onnx", ["MatMul"], calibrate_method=CalibrationMethod.Entropy, extra_options={"num_bins": 8192}
)
finer.collect_data(Reader())
low, high = finer.compute_data()["x"].range_value
width["Entropy, 8192 bins"] = float(high) - float(low)
for name, value in width.items():
    print(f"{name:20} {value:.1f}")
assert width["Entropy"] == width["MinMax"] > 1000, width
assert width["Percentile"] < 20, width
assert width["Entropy, 8192 bins"] < 500, width
PY
