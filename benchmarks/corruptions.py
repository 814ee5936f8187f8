"""Throughput of every corruption against per-image scripts, and where the bench spends an epoch.

    python benchmarks/corruptions.py --out benchmarks/data/corruptions.json

Colour images of 32 x 32, severity 3. Two per-image scripts stand beside ours:

- ``script``: the PyPI package imagecorruptions, what people run. It has ImageNet-C's constants,
  so for this ratio ours runs with them too. From a Pillow image to bytes.
- ``plain``: the lean numpy, scipy and Pillow reference of the tests, with CIFAR-10-C's constants.
  It starts from floats, has no spatter, and crops a random array in the place of frost photographs.

Runs alternate, ours and theirs, after a first one that fills the caches of tables; the median
counts. On a CPU with one thread these are seconds of that thread, which other work does not
lengthen much; else they are of the clock. MNIST-C's corruptions follow (28 x 28, no script), then
augmentations, then the training loop of ``qact bench``: seconds per epoch without validation, and
the share of them outside forward, backward and update, on the digits and, where ``QACT_DATA`` leads
to CIFAR-10, on 6,000 of its images (5,400 to train on), plain and augmented.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from qact.bench import Recipe
from qact.bench.data import load_inputs
from qact.bench.errors import RecipeError
from qact.bench.recipe import rivals
from qact.bench.recipe.recipe import Data
from qact.bench.recipe.training import Training
from qact.bench.train import epoch
from qact.bench.train import network as train
from qact.corruptions.apply import _apply
from qact.corruptions.augment import AUGMENTATIONS, augment
from qact.corruptions.registry import constants, entry
from qact.shift import corrupt, corrupt_mnist, corruptions

HERE = Path(__file__).resolve().parent
SEVERITY = 3
FEW = 16  # images of a per-image script
DIGITS, PHOTOS = Data("digits"), Data("cifar10", limit=6000)
LOOPS = (
    (DIGITS, "none", "relu"),
    (DIGITS, "none", "qact"),
    (PHOTOS, "none", "relu"),
    (PHOTOS, "crop_flip_augmix", "relu"),
    (PHOTOS, "crop_flip_augmix", "qact"),
)


def beside(name: str) -> Any:
    path = HERE.parent / "tests" / "corruptions" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package() -> Any:
    try:
        return beside("package").load()
    except ImportError as error:
        print(f"without imagecorruptions: {error}")
        return None


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def chosen_clock() -> Callable[[], float]:
    """Seconds of this thread where it does all the work, which other programs lengthen little."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_initialized()
    return time.thread_time if alone else time.perf_counter


def medians(runs: int, *works: Callable[[], object]) -> list[float]:
    """Median seconds of each work, the works taking turns."""
    clock = chosen_clock()
    for work in works:
        work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(runs):
        for work, found in zip(works, times, strict=True):
            start = clock()
            work()
            found.append(clock() - start)
    return [statistics.median(found) for found in times]


def settled(images: torch.Tensor, work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        work()
        if images.is_cuda:
            torch.cuda.synchronize()

    return run


def by_script(function: Any, images: torch.Tensor) -> Callable[[], None]:
    pictures = [
        Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
        for image in images[:FEW].cpu()
    ]

    def run() -> None:
        for picture in pictures:
            np.uint8(function(picture, SEVERITY))

    return run


def by_plain(function: Any, name: str, images: torch.Tensor) -> Callable[[], None]:
    few = images[:FEW].cpu().permute(0, 2, 3, 1).double().numpy()
    rng, constant = np.random.default_rng(0), constants(name, SEVERITY, images.shape[-1])

    def run() -> None:
        for image in few:
            np.uint8(np.clip(function(image, constant, rng), 0, 1) * 255)

    return run


def measure(name: str, images: torch.Tensor, runs: int, script: Any, plain: Any) -> dict[str, Any]:
    usual = constants(name, SEVERITY, 224)
    index = torch.arange(len(images), device=images.device)
    function = entry(name).make
    ours = settled(images, lambda: corrupt(images, name, SEVERITY))
    alike = settled(images, lambda: _apply(function, usual, name, images, 0, index))
    row: dict[str, Any] = {}
    if hasattr(plain, name):
        own, slow = medians(runs, ours, by_plain(getattr(plain, name), name, images))
        row |= {"plain_images_per_s": FEW / slow, "ratio_plain": len(images) / own / FEW * slow}
    else:
        (own,) = medians(runs, ours)
    row["images_per_s"] = len(images) / own
    if script is not None:
        like, slow = medians(runs, alike, by_script(getattr(script, name), images))
        row |= {"script_images_per_s": FEW / slow, "ratio_script": len(images) / like / FEW * slow}
    return row


def corruption_rows(images: torch.Tensor, runs: int) -> dict[str, Any]:
    rows, script, plain = {}, package(), beside("per_image")
    keys = ("images_per_s", "script_images_per_s", "ratio_script")
    keys += ("plain_images_per_s", "ratio_plain")
    heads = ("images/s", "script", "ratio", "plain", "ratio")
    print(f"{'corruption':18s}" + "".join(f"{head:>10s}" for head in heads))
    for name in corruptions("all"):
        row = rows[name] = measure(name, images, runs, script, plain)
        print(f"{name:18s}" + "".join(f"{row.get(key, float('nan')):10.1f}" for key in keys))
    return rows


def rates(
    images: torch.Tensor, runs: int, named: dict[str, Callable[[], object]]
) -> dict[str, Any]:
    rows = {}
    for name, work in named.items():
        (seconds,) = medians(runs, settled(images, work))
        rows[name] = {"images_per_s": len(images) / seconds}
        print(f"{name:18s}{len(images) / seconds:10.1f}", flush=True)
    return rows


def mnist_rows(images: torch.Tensor, runs: int) -> dict[str, Any]:
    grey = images[:, :1, :28, :28].contiguous()
    print("\nMNIST-C, images/s")
    names = corruptions("mnist")
    return rates(grey, runs, {n: lambda n=n: corrupt_mnist(grey, n) for n in names})


def augment_rows(images: torch.Tensor, runs: int) -> dict[str, Any]:
    levels = (images * 255).round().byte()
    print("\naugmentation, images/s")
    names = [name for name in AUGMENTATIONS if name != "none"]
    batches = levels.split(256)
    return rates(
        images, runs, {n: lambda n=n: [augment(b, n, seed=0) for b in batches] for n in names}
    )


def epoch_rows() -> dict[str, Any]:
    """Seconds per epoch of the bench's own loop and what they hold besides the network."""
    rows: dict[str, Any] = {}
    print(f"\n{'training':48s}{'s / epoch':>10s}{'outside':>10s}")
    for data, augmentation, act in LOOPS:
        try:
            inputs = load_inputs(data)
        except RecipeError as error:
            print(f"skipped: {error}")
            continue
        recipe = Recipe(data=data, training=Training(epochs=3, augmentation=augmentation))
        count, size = len(inputs.train[1]), inputs.train[0].shape[-1]
        name = f"resnet_small {act}, {augmentation}, {count} {data.name} of {size}x{size}"
        row = rows[name] = timed_epochs(recipe, act, inputs)
        print(
            f"{name:48s}{row['seconds_per_epoch']:10.2f}{row['outside_network']:10.1%}", flush=True
        )
    return rows


def timed_epochs(recipe: Recipe, act: str, inputs: Any) -> dict[str, float]:
    names = ("epoch", "_validate", "_step", "_images")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        whole, after, steps, images = (stack.enter_context(counted(name)) for name in names)
        train.train_cell(recipe, rivals.rival(act), 0, inputs, Path(folder), lambda images: None)
    seconds = [all_of_it - rest for all_of_it, rest in zip(whole, after, strict=True)]
    return {
        "seconds_per_epoch": statistics.median(seconds),
        "outside_network": 1 - (sum(steps) - sum(images)) / sum(seconds),
    }


@contextmanager
def counted(name: str) -> Iterator[list[float]]:
    """The seconds of each call of a method of the training loop."""
    method, seconds, clock = getattr(epoch.Loop, name), [], chosen_clock()

    def timed(*arguments: Any) -> Any:
        start = clock()
        result = method(*arguments)
        seconds.append(clock() - start)
        return result

    setattr(epoch.Loop, name, timed)
    try:
        yield seconds
    finally:
        setattr(epoch.Loop, name, method)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of the package's age
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (args.images, 3, 32, 32), generator=generator) / 255
    images = images.to(args.device)
    found = {"corruptions": corruption_rows(images, args.runs)}
    found |= {"mnist": mnist_rows(images[:512], args.runs)}
    found |= {"augmentation": augment_rows(images, args.runs), "training": epoch_rows()}
    if args.out:
        device = torch.cuda.get_device_name() if args.device.startswith("cuda") else cpu_name()
        setting = {"torch": torch.__version__, "device": device, "cpu": cpu_name()}
        setting |= {"threads": args.threads, "images": args.images, "severity": SEVERITY}
        setting |= {"shape": [3, 32, 32], "runs": args.runs}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"setting": setting, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
