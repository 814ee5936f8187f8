"""Static quantisation by onnxruntime: ranges from contexts against its own entropy calibrator.

    python benchmarks/observers.py --weights relu.npz --calibration train.npz --images test.npz
    python benchmarks/observers.py --table      # of what is recorded

ResNet-18 with ReLU of `fullsize.py`, exported once. Both calibrate on the same images in batches of
16, each round one after the other in one process with one thread. Theirs: onnxruntime's calibrator
with its defaults runs the augmented model, counts and searches ("entropy"; "min-max" beside it).
Ours: "contexts" counts in a pass of the PyTorch model and searches ranges; "recorded" has the
contexts from a pass that was made anyway, and searches ranges alone; "sampled" counts 64 positions
of each map. Processor seconds. Each set of
ranges is then written by `quantize_static` (all operators, int8, weights per channel) and its
accuracy measured on the test images.
"""

import argparse
import json
import platform
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    calibrate,
    quantize_static,
)
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from fullsize_streams import network, normalised
from qact.integrations import onnxruntime as ours
from qact.taps import clip_range

OUT = Path(__file__).parent / "data" / "observers.json"
BATCH, CLIPS = 16, ("mse", "kl", "quantile", "minmax")
THEIRS = {"entropy": CalibrationMethod.Entropy, "min-max": CalibrationMethod.MinMax}


class Reader(CalibrationDataReader):
    def __init__(self, images: torch.Tensor) -> None:
        self.batches = iter([{"x": batch.numpy()} for batch in images.split(BATCH)])

    def get_next(self) -> dict | None:
        return next(self.batches, None)


def load(path: Path) -> tuple[torch.Tensor, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        images = torch.from_numpy(file["images"]).permute(0, 3, 1, 2).contiguous().float() / 255
        return normalised(images), file["labels"]


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def accuracy(path: Path, images: torch.Tensor, labels: np.ndarray) -> float:
    model = session(path)
    logits = [model.run(None, {"x": x.numpy()})[0] for x in images.split(100)]
    return float((np.concatenate(logits).argmax(1) == labels).mean())


def theirs(source: Path, images: torch.Tensor, method: CalibrationMethod, cache: Path) -> float:
    """Seconds; the ranges are in ``cache``."""
    begin = time.process_time()
    kinds = list({*QLinearOpsRegistry, *QDQRegistry})
    made = calibrate.create_calibrator(
        source, kinds, str(cache.with_suffix(".onnx")), calibrate_method=method
    )
    made.collect_data(Reader(images))
    ranges = made.compute_data()
    spent = time.process_time() - begin
    calibrate.save_tensors_data(ranges, cache)
    return spent


def contexts(
    model: torch.nn.Module, source: Path, images: torch.Tensor, sample: int | None = None
) -> tuple[float, object]:
    begin = time.process_time()
    observed = ours.observe(model, source, sample=sample).run(images.split(BATCH))
    return time.process_time() - begin, observed


def searched(observed: object, clip: str) -> float:
    begin = time.process_time()
    for context in observed.values():
        clip_range(context, 8, clip)
    return time.process_time() - begin


def measure(options: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(1)
    model = network("relu", options.weights)
    (images, _), (test, labels) = load(options.calibration), load(options.images)
    seconds: dict[str, list[float]] = defaultdict(list)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "model.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shapes = ({0: torch.export.Dim.DYNAMIC},)
            torch.onnx.export(
                model, (images[:2],), str(source), dynamo=True, verbose=False,
                external_data=False, dynamic_shapes=shapes,
            )  # fmt: skip
        contexts(model, source, images[:BATCH])  # compiles
        for _ in range(options.rounds):
            for key, method in THEIRS.items():
                cache = folder / f"{key}.json"
                seconds[key].append(theirs(source, images, method, cache))
            spent, drawn = contexts(model, source, images, sample=64)
            seconds["sampled, mse"].append(spent + searched(drawn, "mse"))
            spent, observed = contexts(model, source, images)
            for clip in CLIPS:
                alone = searched(observed, clip)
                seconds[f"recorded, {clip}"].append(alone)
                seconds[f"contexts, {clip}"].append(spent + alone)
            print({key: round(values[-1], 2) for key, values in seconds.items()}, flush=True)
        found["float32"] = accuracy(source, test, labels)
        goal = folder / "int8.onnx"
        for key, method in THEIRS.items():
            quantize_static(
                str(source), str(goal), calibrate_method=method, per_channel=True,
                calibration_cache_path=folder / f"{key}.json",
            )  # fmt: skip
            found[key] = accuracy(goal, test, labels)
        left = ours.quantise_static(source, goal, drawn, clip="mse", per_channel=True)
        print("in float:", *left)
        found["sampled, mse"] = accuracy(goal, test, labels)
        for clip in CLIPS:
            ours.quantise_static(source, goal, observed, clip=clip, per_channel=True)
            found[clip] = accuracy(goal, test, labels)
    return {
        "calibration_images": len(images), "test_images": len(labels), "seconds": seconds,
        "accuracy": found, "torch": torch.__version__, "onnxruntime": onnxruntime.__version__,
        "machine": f"{platform.machine()}, one thread, shared",
    }  # fmt: skip


def table(row: dict) -> list[str]:
    seconds, found = row["seconds"], row["accuracy"]
    own = seconds["entropy"]
    lines = [
        f"{row['calibration_images']} images to calibrate, {row['test_images']} to test, torch "
        f"{row['torch']}, onnxruntime {row['onnxruntime']}, {row['machine']}; float32 "
        f"{100 * found['float32']:.1f}%",
        "",
        "| calibration | seconds | faster than entropy | accuracy, int8 |",
        "|---|---:|---:|---:|",
    ]
    for key, values in seconds.items():
        ratios = [a / b for a, b in zip(own, values, strict=True)]
        spread = f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        right = 100 * found.get(key, found.get(key.rpartition(", ")[2], 0.0))
        lines.append(f"| {key} | {median(values):.2f} | {spread} | {right:.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--calibration", type=Path, help="npz of images and labels")
    parser.add_argument("--images", type=Path, help="npz of images and labels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        options.out.write_text(json.dumps(measure(options), indent=1) + "\n")
    print("\n".join(table(json.loads(options.out.read_text()))))


if __name__ == "__main__":
    main()
