"""What a deployed network costs: a small CNN in onnxruntime, float32, float16 and int8.

    python benchmarks/onnx_latency.py              # measures; writes benchmarks/data/onnx.json
    python benchmarks/onnx_latency.py --markdown   # prints what is recorded

One process, one thread; every round times each network once, and the ratio to ReLU's time is taken
within the round. ``unit`` is BatchNorm and ReLU, or what stands in their place.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from torch import Tensor, nn

import qact

DATA = Path("benchmarks/data/onnx.json")
SHAPE = (3, 32, 32)
UNITS = {
    "relu": lambda c: nn.Sequential(nn.BatchNorm2d(c), nn.ReLU()),
    "gelu": lambda c: nn.Sequential(nn.BatchNorm2d(c), nn.GELU()),
    "NormedQAct": lambda c: qact.NormedQAct(c),
    "NormedQAct, fast_export": lambda c: qact.NormedQAct(c),
    "QAct.paper": lambda c: qact.QAct.paper(c),
    "QAct.paper, fast_export": lambda c: qact.QAct.paper(c),
}


def network(unit) -> nn.Module:
    """Four convolutions, 32 to 128 channels, and a linear classifier."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), unit(after)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    with torch.no_grad():
        for _ in range(4):
            model(torch.randn(32, *SHAPE))
    return model.eval()


def export(model: nn.Module, path: Path) -> None:
    x = torch.randn(2, *SHAPE, dtype=next(model.parameters()).dtype)
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), str(path), dynamo=True, verbose=False, dynamic_shapes=shapes)


class Batches(CalibrationDataReader):
    """Sixteen random batches for the ranges of int8."""

    def __init__(self, name: str) -> None:
        generator = torch.Generator().manual_seed(1)
        draws = (torch.randn(8, *SHAPE, generator=generator) for _ in range(16))
        self.batches = iter([{name: draw.numpy()} for draw in draws])

    def get_next(self) -> dict | None:
        return next(self.batches, None)


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def quantised(source: Path, goal: Path) -> None:
    """Convolutions and the classifier in int8; what stands between them stays in float32."""
    name = session(source).get_inputs()[0].name
    options = {"quant_format": QuantFormat.QDQ, "per_channel": True}
    quantize_static(
        str(source), str(goal), Batches(name), op_types_to_quantize=["Conv", "Gemm"], **options
    )


def prepare(folder: Path) -> dict[tuple[str, str], tuple[onnxruntime.InferenceSession, float]]:
    """A session for every network and format, and its largest distance from PyTorch's float32."""
    ready = {}
    x = torch.randn(16, *SHAPE)
    for name, unit in UNITS.items():
        model = network(unit)
        with torch.no_grad():
            want = model(x)
        paths = {kind: folder / f"{name}.{kind}.onnx" for kind in ("float32", "float16", "int8")}
        with qact.fast_export() if "fast_export" in name else nullcontext():
            export(model, paths["float32"])
            quantised(paths["float32"], paths["int8"])
            export(model.half(), paths["float16"])
        for kind, path in paths.items():
            made = session(path)
            got = torch.from_numpy(run(made, x.half() if kind == "float16" else x))
            error = (got.float() - want).abs().max() / want.abs().max()
            ready[name, kind] = made, float(error)
    return ready


def run(made: onnxruntime.InferenceSession, x: Tensor):
    return made.run(None, {made.get_inputs()[0].name: x.numpy()})[0]


def seconds(made: onnxruntime.InferenceSession, x: Tensor) -> float:
    begin = time.process_time()
    run(made, x)
    return time.process_time() - begin


def measure(rounds: int) -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        ready = prepare(Path(folder))
        for batch in (1, 8):
            x = torch.randn(batch, *SHAPE)
            times: dict[tuple[str, str], list[float]] = {key: [] for key in ready}
            for _ in range(rounds + 3):
                for (name, kind), (made, _) in ready.items():
                    given = x.half() if kind == "float16" else x
                    times[name, kind].append(seconds(made, given))
            for (name, kind), (_, error) in ready.items():
                pairs = zip(times[name, kind][3:], times["relu", kind][3:], strict=True)
                ratio = statistics.median(a / b for a, b in pairs)
                ms = 1e3 * statistics.median(times[name, kind][3:])
                row = {"unit": name, "format": kind, "batch": batch, "ms": round(ms, 3)}
                rows.append(row | {"ratio": round(ratio, 2), "error": float(f"{error:.1e}")})
                print(rows[-1], flush=True)
    return rows


def markdown(rows: list[dict]) -> str:
    others = list(UNITS)[1:]
    lines = ["| format, batch | BatchNorm + ReLU, ms | " + " | ".join(others) + " |"]
    lines.append("|---" * (len(others) + 2) + "|")
    table = {(r["format"], r["batch"], r["unit"]): r for r in rows}
    for kind in ("float32", "float16", "int8"):
        for batch in (1, 8):
            cells = [f"{table[kind, batch, 'relu']['ms']:.2f}"]
            cells += [f"{table[kind, batch, unit]['ratio']:.2f}" for unit in others]
            lines.append(f"| {kind}, {batch} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    if options.markdown:
        print(markdown(json.loads(DATA.read_text())["rows"]))
        return
    torch.set_num_threads(1)
    about = {
        "command": "python benchmarks/onnx_latency.py",
        "torch": torch.__version__,
        "threads": 1,
    }
    about |= {"onnxruntime": onnxruntime.__version__, "rounds": options.rounds}
    rows = measure(options.rounds)
    DATA.write_text(json.dumps(about | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
