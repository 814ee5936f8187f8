"""Adaptation of full-size networks: ResNet-18 on CIFAR-10 under the fifteen corruptions.

    python benchmarks/fullsize_streams.py --data DIR --relu RELU.npz --qact QACT.npz
    python benchmarks/fullsize_streams.py --table

Severity 5, batches of 64: shuffled, correlated (Dirichlet with 0.1 over classes), sorted by class,
and all corruptions mixed. Images of all classes alike are taken from the second half of the test
images; the first half is for whoever chooses anything (``--part first``). A method begins anew with
every corruption; the mixed stream is one. ``recalibrated`` has recorded 1,000 training images.

The weights are those of `qact.models.resnet18`: a ``state_dict`` in ``.pt``, or arrays in ``.npz``,
where 8-bit filters have their scales beside them as ``NAME::scale``. Rows go to ``--out`` as they
come, a stopped run goes on, and several may write side by side. ``--table`` prints the tables and,
of the default file, writes them into the page.
"""

import argparse
import csv
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor, nn

from qact import adapt
from qact.calibration import calibration_error
from qact.models import resnet18
from qact.recalibrate.block import PRIOR
from qact.shift import corruptions, load, streams

MEAN, STD = (
    torch.tensor(v)[:, None, None] for v in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
)
BATCH, RECORDED = 64, 1_000
PAGE, DATA = Path("docs/adaptation.md"), Path("benchmarks/data/fullsize-streams.csv")
BEGIN, END = "<!-- fullsize -->", "<!-- /fullsize -->"
STREAMS = {"iid": "shuffled", "dirichlet": "Dirichlet 0.1", "sorted": "sorted", "mixed": "mixed"}
METHODS = (
    *("source", "safe", "batch", "lame", "alpha_bn", "recalibrated"),
    *("tent", "eata", "sar", "rotta", "note", "roid"),
)
KEY = ("network", "method", "stream", "corruption")
FIELDS = (*KEY, "n", "accuracy", "ece", "cpu_ms_per_batch")
Rows = dict[tuple[str, ...], dict[str, str]]


def network(kind: str, path: Path) -> nn.Module:
    """A ResNet-18 with its weights, in ``eval()``."""
    model = resnet18(act=kind)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            state = unpacked({name: torch.from_numpy(file[name]) for name in file.files})
    else:
        state = torch.load(path, weights_only=True)
    model.load_state_dict(state)
    return model.eval()


def unpacked(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Filters times their scales, half precision as float32."""
    state = {}
    for name in (name for name in arrays if not name.endswith("::scale")):
        value, scale = arrays[name], arrays.get(f"{name}::scale")
        value = value.float() if scale is not None or value.dtype == torch.float16 else value
        state[name] = (
            value if scale is None else value * scale.reshape(-1, *[1] * (value.dim() - 1))
        )
    return state


def normalised(images: Tensor) -> Tensor:
    """As the networks were trained."""
    return (images - MEAN) / STD


def balanced(images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` images with equally many of each class."""
    each = [torch.nonzero(labels == c)[: count // 10, 0] for c in range(10)]
    index = torch.cat(each).sort().values
    return images[index], labels[index]


class Source:
    """The network as it is, which sees each image once, whatever the order of the stream."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.seen = model, {}

    def reset(self) -> None:
        """Nothing was learnt."""

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        keys = [image.numpy().tobytes() for image in x]
        new = [i for i, key in enumerate(keys) if key not in self.seen]
        if new:
            self.seen |= dict(zip((keys[i] for i in new), self.model(x[new]), strict=True))
        return torch.stack([self.seen[key] for key in keys])


Adapted = adapt.Method | Source


def method(name: str, model: nn.Module, recorded: Tensor) -> Adapted:
    """A method with its published settings."""
    if name == "source":
        return Source(model)
    if name == "recalibrated":
        return adapt.create("aqr", model, source=recorded.split(BATCH), prior=PRIOR)
    return adapt.create(name, model)


def measure(adapted: Adapted, stream: streams.Stream, dtype: torch.dtype) -> Iterator[dict]:
    """One row for each corruption of a stream; the method begins anew with each if they do."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    last = None
    for step, (x, y, condition) in zip(stream.steps, stream, strict=True):
        if last is not None and stream.fresh and condition != last:
            yield row(last.rpartition("-")[0], found.pop(last), seconds.pop(last))
        if last is None or (stream.fresh and condition != last):
            adapted.reset()
        last = condition
        begin = time.process_time()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            logits = adapted(x).float()
        seconds[condition].append(time.process_time() - begin)
        if stream.fresh:
            found[condition].append((logits, y))
            continue
        for name in {kind for kind, _ in step.conditions}:
            mine = torch.tensor([kind == name for kind, _ in step.conditions])
            found[name].append((logits[mine], y[mine]))
    for name, pairs in found.items():
        spent = seconds[last] if last is not None else []
        yield row(name.rpartition("-")[0] if stream.fresh else name, pairs, spent)


def row(corruption: str, pairs: list[tuple[Tensor, Tensor]], seconds: list[float]) -> dict:
    """Accuracy, calibration error and processor time of one corruption."""
    logits, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    hits = logits.argmax(1) == labels
    return {
        "corruption": corruption,
        "n": len(labels),
        "accuracy": round(hits.double().mean().item(), 5),
        "ece": round(float(calibration_error(logits.softmax(1), labels)), 5),
        "cpu_ms_per_batch": round(1e3 * sorted(seconds)[len(seconds) // 2], 1),
    }


def read(path: Path) -> Rows:
    """Rows by network, method, stream and corruption."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {tuple(found[k] for k in KEY): found for found in csv.DictReader(file)}


def run(options: argparse.Namespace) -> None:
    """Fill in the rows that are missing."""
    data = load("cifar10", root=options.data)
    half = slice(0, 5_000) if options.part == "first" else slice(5_000, None)
    images, labels = (torch.as_tensor(part[half]) for part in data.test)
    train = normalised(torch.as_tensor(data.train[0][:RECORDED]) / 255)
    counts = dict(zip(STREAMS, options.images, strict=True))
    dtype = getattr(torch, options.precision)
    for kind in options.networks:
        model = network(kind, getattr(options, kind))
        for name in options.methods:
            adapted = None
            for stream in options.streams:
                there = read(options.out)
                missing = [c for c in corruptions() if (kind, name, stream, c) not in there]
                if not missing:
                    continue
                x, y = balanced(images / 255, labels, counts[stream])
                plan = streams.stream(
                    stream, x, y, batch=BATCH, corruptions=missing, transform=normalised
                )
                adapted = adapted or method(name, model, train)
                for found in measure(adapted, plan, dtype):
                    write(options.out, {"network": kind, "method": name, "stream": stream} | found)


def write(path: Path, found: dict) -> None:
    """One line at the end of the file, and on the screen."""
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if not path.stat().st_size:
            writer.writeheader()
        writer.writerow(found)
    print(*found.values(), flush=True)


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def tables(rows: Rows) -> Iterator[str]:
    """Means over the corruptions, then every corruption of `safe` beside the source."""
    for kind in dict.fromkeys(key[0] for key in rows):
        mine = {key[1:]: r for key, r in rows.items() if key[0] == kind}
        yield f"**{kind}**, mean of the fifteen corruptions, and the least lead on the source\n"
        head = ["method", *(f"{s}{w}" for s in STREAMS.values() for w in (", %", ", least"))]
        yield line([*head, "ECE, shuffled", "ms"])
        yield line(["---", *["---:"] * (len(head) + 1)])
        for name in METHODS:
            cells = [cell for stream in STREAMS for cell in means(mine, name, stream)]
            iid = [r for key, r in mine.items() if key[:2] == (name, "iid")]
            if any(cell != "–" for cell in cells):
                ece = f"{100 * fmean(float(r['ece']) for r in iid):.1f}" if iid else "–"
                cost = f"{fmean(float(r['cpu_ms_per_batch']) for r in iid):.0f}" if iid else "–"
                yield line([f"`{name}`", *cells, ece, cost])
        yield ""
        yield from by_corruption(kind, mine)


def by_corruption(kind: str, mine: Rows) -> Iterator[str]:
    """Source, test batch and `safe` on every stream."""
    yield f"**{kind}**, `safe` by corruption: source / test batch / `safe`\n"
    yield line(["", *STREAMS.values()])
    yield line(["---", *["---:"] * len(STREAMS)])
    for name in corruptions():
        cells = []
        for stream in STREAMS:
            three = (mine.get((m, stream, name)) for m in ("source", "batch", "safe"))
            cells.append(
                " / ".join("–" if r is None else f"{100 * float(r['accuracy']):.1f}" for r in three)
            )
        yield line([name, *cells])
    yield ""


def means(mine: Rows, name: str, stream: str) -> tuple[str, str]:
    """Mean accuracy in %, over corruptions, and the least lead on the source, in points."""
    found = {key[2]: r for key, r in mine.items() if key[:2] == (name, stream)}
    pairs = [
        (float(r["accuracy"]), float(mine["source", stream, c]["accuracy"]))
        for c, r in found.items()
        if ("source", stream, c) in mine
    ]
    if len(pairs) < len(corruptions()):
        return "–", "–"
    lead = min(a - b for a, b in pairs)
    return f"{100 * fmean(a for a, _ in pairs):.1f}", f"{100 * lead:+.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10")
    parser.add_argument("--relu", type=Path, help="weights of resnet18(act='relu')")
    parser.add_argument("--qact", type=Path, help="weights of resnet18(act='qact')")
    parser.add_argument("--networks", nargs="+", default=["relu", "qact"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--streams", nargs="+", default=list(STREAMS), choices=STREAMS)
    parser.add_argument(
        "--images",
        nargs=4,
        type=int,
        default=[640, 640, 640, 320],
        metavar=tuple(STREAMS),
        help="of a corruption, by stream",
    )
    parser.add_argument("--part", choices=("first", "second"), default="second")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--table", action="store_true", help="of what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table:
        text = "\n".join(tables(read(options.out)))
        print(text)
        if options.out != DATA:
            return
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")
    else:
        run(options)


if __name__ == "__main__":
    main()
