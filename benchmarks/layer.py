"""What a QAct layer costs against BatchNorm + ReLU: forward and backward, interleaved, as ratios.

python benchmarks/layer.py
"""

import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

import qact

SHAPES = ((128, 64, 32, 32), (128, 512, 4, 4))
PAIRS = 5


def seconds(module: nn.Module, x: torch.Tensor) -> float:
    begin = time.perf_counter()
    module(x).sum().backward()
    return time.perf_counter() - begin


def main() -> None:
    about = {"command": "python benchmarks/layer.py", "torch": torch.__version__}
    rows = []
    for shape in SHAPES:
        channels, x = shape[1], torch.randn(shape, requires_grad=True)
        control = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        for engine in ("cpu", "eager"):
            layer = qact.QAct(channels, engine=engine)
            pairs = [(seconds(layer, x), seconds(control, x)) for _ in range(PAIRS + 1)][1:]
            ratio = statistics.median(ours / theirs for ours, theirs in pairs)
            rows.append({"shape": shape, "engine": engine, "ratio": round(ratio, 2)})
            print(f"{shape!s:20} {engine:6} {ratio:6.1f} x BatchNorm + ReLU", flush=True)
    about["threads"] = torch.get_num_threads()
    Path("benchmarks/data/layer.json").write_text(json.dumps(about | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
