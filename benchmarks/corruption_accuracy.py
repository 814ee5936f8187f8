"""What networks score under our corruptions and under the published generator's.

    QACT_DATA=DIR python benchmarks/corruption_accuracy.py --networks DIR

``published`` is the script of CIFAR-10-C with present libraries: the functions of the PyPI package
imagecorruptions with CIFAR-10-C's constants, its photographs of frost shrunk and cropped as
published, and for the elastic transform, which the package has in another form, the plain reference
of the tests. Test images of CIFAR-10 in blocks of 500; DIR of the networks has a ``load.py`` with
``state(kind)``, the state of ``resnet18(act=kind)``, and its ``MEAN`` and ``STD``. Networks run in
bfloat16 autocast and ``eval()``. Every block is a row of the CSV file and is not computed again;
the table sums blocks. A difference in points has the standard error of its discordant pairs.
"""

import argparse
import csv
import importlib.util
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from qact.corruptions.registry import constants
from qact.models import resnet18
from qact.shift import corrupt, corruptions, load

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests" / "corruptions"
FIELDS = ("network", "corruption", "severity", "block", "images", "ours", "published", "only_ours")
BLOCK = 500
Sums = dict[tuple[str, str, int], np.ndarray]  # corruption, network, severity


def module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"beside_{path.stem}", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def published(images: torch.Tensor, name: str, severity: int, seed: int) -> torch.Tensor:
    """The published generator on images (N, 3, 32, 32), one after the other, decimals cut."""
    constant, plain = constants(name, severity, 32), module(TESTS / "per_image.py")
    package = module(TESTS / "package.py")
    np.random.seed(seed)
    if name == "elastic_transform":
        rng = np.random.default_rng(seed)

        def work(x: np.ndarray) -> np.ndarray:
            return np.clip(plain.elastic_transform(x / 255.0, constant, rng), 0, 1) * 255

    elif name == "frost":
        pictures = package.frost_pictures()

        def work(x: np.ndarray) -> np.ndarray:
            return package.frost(x, constant, pictures)

    else:
        function = package.with_constant(package.load(), name, constant)

        def work(x: np.ndarray) -> np.ndarray:
            return function(Image.fromarray(x))

    levels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    out = np.stack([np.uint8(work(image)) for image in levels])
    return torch.from_numpy(out).permute(0, 3, 1, 2).float() / 255


class Normalize(torch.nn.Module):
    def __init__(self, mean: Any, std: Any) -> None:
        super().__init__()
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def networks(folder: Path, kinds: list[str]) -> dict[str, torch.nn.Module]:
    store, found = module(folder / "load.py"), {}
    for kind in kinds:
        net = resnet18(act=kind)
        net.load_state_dict(store.state(kind))
        normal = Normalize(store.MEAN, store.STD)
        found[kind] = torch.nn.Sequential(normal, net).eval()
    return found


@torch.inference_mode()
def right(net: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([net(x) for x in images.split(50)]).argmax(1) == labels


def measured(args: Any, done: set[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    last = args.blocks[-1]
    images, labels = (
        t[: (last + 1) * BLOCK] for t in load("cifar10", limit=(last + 1) * BLOCK).test
    )
    nets = networks(args.networks, args.kinds)
    for block in args.blocks:
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        x, y = images[part].float() / 255, labels[part]
        index = torch.arange(part.start, part.stop)
        for severity in args.severities:
            for name in args.corruptions:
                left = [k for k in nets if (k, name, str(severity), str(block)) not in done]
                if not left:
                    continue
                ours = corrupt(x, name, severity, index=index)
                theirs = published(x, name, severity, seed=100 * severity + block)
                for kind in left:
                    one, two = right(nets[kind], ours, y), right(nets[kind], theirs, y)
                    counts = (len(y), int(one.sum()), int(two.sum()), int((one & ~two).sum()))
                    row = (kind, name, severity, block, *counts)
                    yield dict(zip(FIELDS, row, strict=True))


def summed(rows: list[dict[str, str]]) -> Sums:
    """Counts of all blocks by corruption, network and severity."""
    sums: Sums = defaultdict(lambda: np.zeros(4, int))
    for row in rows:
        counts = np.array([int(row[k]) for k in FIELDS[4:]])
        sums[row["corruption"], row["network"], int(row["severity"])] += counts
    return sums


def table(sums: Sums) -> str:
    """A line per corruption and network: ours, published and the difference, by severity."""
    severities = sorted({key[2] for key in sums})
    lines = ["| corruption | network |" + "".join(f" {s} |" for s in severities)]
    lines += ["|---|---|" + "---|" * len(severities)]
    for name in corruptions("all"):
        for kind in ("relu", "qact"):
            here = [sums.get((name, kind, s)) for s in severities]
            if any(counts is not None for counts in here):
                cells = ["" if counts is None else cell(counts) for counts in here]
                lines.append(f"| {name} | {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(counts: np.ndarray) -> str:
    n, ours, theirs, _ = (int(v) for v in counts)
    difference, error = compared(counts)
    return (
        f"{100 * ours / n:.1f}, {100 * theirs / n:.1f}: {100 * difference:+.1f} ({100 * error:.1f})"
    )


def compared(counts: np.ndarray) -> tuple[float, float]:
    """Ours less theirs, and the standard error of it."""
    n, ours, theirs, only = (int(v) for v in counts)
    discordant, difference = 2 * only - (ours - theirs), (ours - theirs) / n
    return difference, math.sqrt(max(discordant / n - difference**2, 0) / n)


def together(sums: Sums) -> str:
    """How many cells are within two points, and how large they are beside their errors."""
    found = [compared(counts) for counts in sums.values()]
    within = sum(abs(difference) <= 0.02 + 1e-9 for difference, _ in found)
    square = np.mean([(difference / error) ** 2 for difference, error in found if error])
    return f"{within} of {len(found)} cells within two points, mean square {square:.2f} errors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=Path)
    parser.add_argument("--kinds", nargs="+", default=["relu", "qact"])
    parser.add_argument("--blocks", type=int, nargs="+", default=[0])
    parser.add_argument("--severities", type=int, nargs="+", default=[1, 3, 5, 2, 4])
    parser.add_argument("--corruptions", nargs="+", default=list(corruptions()))
    parser.add_argument("--out", type=Path, default=HERE / "data" / "corruption-accuracy.csv")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of the package's age
    torch.set_num_threads(1)
    if not args.out.exists():
        args.out.write_text(",".join(FIELDS) + "\n")
    if args.networks:
        with args.out.open() as file:
            done = {tuple(row[k] for k in FIELDS[:4]) for row in csv.DictReader(file)}
        for row in measured(args, done):
            with args.out.open("a") as file:
                csv.DictWriter(file, FIELDS, lineterminator="\n").writerow(row)
            print(*row.values(), flush=True)
    with args.out.open() as file:
        sums = summed(list(csv.DictReader(file)))
    print(table(sums), together(sums), sep="\n\n")


if __name__ == "__main__":
    main()
