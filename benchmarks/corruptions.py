"""Throughput of every corruption, against a plain script that works image by image.

    python benchmarks/corruptions.py --out benchmarks/data/corruptions.json

Colour images of 32 x 32 in [0, 1], severity 3, median of several runs after a first one that fills
the caches of tables. The plain script is the numpy, scipy and Pillow reference of the tests; it
has no spatter, and its frost crops a random array in the place of a photograph.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from qact.shift import corrupt, corruptions
from qact.shift.constants import constants

HERE = Path(__file__).resolve().parent
SEVERITY = 3


def plain_script():
    path = HERE.parent / "tests" / "shift" / "per_image.py"
    spec = importlib.util.spec_from_file_location("per_image", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def seconds(work: Callable[[], object], runs: int) -> float:
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(name: str, images: torch.Tensor, plain, runs: int) -> dict[str, float | None]:
    def ours() -> None:
        corrupt(images, name, SEVERITY)
        if images.is_cuda:
            torch.cuda.synchronize()

    rate = len(images) / seconds(ours, runs)
    function = getattr(plain, name, None)
    if function is None:
        return {"images_per_s": rate, "plain_images_per_s": None, "ratio": None}
    few = images[:32].cpu().permute(0, 2, 3, 1).double().numpy()
    rng, constant = np.random.default_rng(0), constants(name, SEVERITY, images.shape[-1])

    def theirs() -> None:
        for image in few:
            np.uint8(np.clip(function(image, constant, rng), 0, 1) * 255)

    slow = len(few) / seconds(theirs, runs)
    return {"images_per_s": rate, "plain_images_per_s": slow, "ratio": rate / slow}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (args.images, 3, 32, 32), generator=generator) / 255
    plain, rows = plain_script(), {}
    print(f"{'corruption':18s} {'images/s':>10s} {'plain':>10s} {'ratio':>7s}")
    for name in corruptions("all"):
        row = rows[name] = measure(name, images.to(args.device), plain, args.runs)
        slow, ratio = row["plain_images_per_s"], row["ratio"]
        tail = f"{slow:10.0f} {ratio:7.1f}" if slow is not None else f"{'-':>10s} {'-':>7s}"
        print(f"{name:18s} {row['images_per_s']:10.0f} {tail}", flush=True)
    if args.out:
        device = torch.cuda.get_device_name() if args.device.startswith("cuda") else cpu_name()
        setting = {"torch": torch.__version__, "device": device, "cpu": cpu_name()}
        setting |= {"threads": args.threads, "images": args.images, "severity": SEVERITY}
        setting |= {"shape": [3, 32, 32], "runs": args.runs}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"setting": setting, "corruptions": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
