"""What a QAct layer costs: time and memory, as ratios to BatchNorm + ReLU.

    python benchmarks/speed.py                    # one thread, then all: some 10 minutes
    python benchmarks/speed.py --part cold        # a part; engines, growth: only so
    python benchmarks/speed.py --device cuda      # on a GPU: see speed_cuda.py for its columns
    python benchmarks/speed.py --table            # the recorded figures, as the docs have them

How rivals are timed, and when a machine is too busy for ratios, is in `rounds.py`. `forward` and
`both` (forward and backward) are training with the running context following; `eval` reads the
stored context, of inputs as it was made of, or shifted by one deviation and half as wide again.
Rows are written as they come to `benchmarks/data/speed-<device>.json`; the same
command goes on where it was stopped, and measures again what another load had disturbed.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numba
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import qact
import speed_cuda
from published import Published
from qact.models import resnet18
from qact.nn.normed import NormedQAct
from rounds import Record, Row, Work, in_turn, refusal, rows_of
from speed_cuda import CONTROL, MAPS, one_pass

ROOT = Path(__file__).resolve().parents[1]
TOKENS = (32, 384, 197)  # of a ViT
TINY = (4, 8)  # nothing to compute: what a call costs by itself
COPY = "copy of the input"
# What a block moves to and from memory, in copies of its input: read and written once; backward the
# input and the gradient read, and one written.
COPIES = {"forward": 1.0, "both": 2.5, "eval": 1.0, "eval, shifted": 1.0}
SETTLED = 40  # batches, until running statistics are those of the batch
Rivals = dict[str, Callable[[int], nn.Module]]


BLOCKS: Rivals = {
    CONTROL: lambda c: nn.Sequential(nn.BatchNorm1d(c), nn.ReLU()),
    "BatchNorm + GELU": lambda c: nn.Sequential(nn.BatchNorm1d(c), nn.GELU()),
    "NormedQAct": NormedQAct,
    "QAct": qact.QAct,
    "QAct.paper": qact.QAct.paper,
}
PUBLISHED: Rivals = {"QAct.paper": qact.QAct.paper, "published formulation": Published}
ENGINES: Rivals = {
    CONTROL: BLOCKS[CONTROL],
    "fused": BLOCKS["NormedQAct"],
    "five Numba passes": lambda c: general(c, None),
    "eager PyTorch": lambda c: general(c, "eager"),
}


def general(channels: int, engine: str | None) -> nn.Module:
    """The same layer by the general engine: a function for a level is not fused."""
    act = qact.QAct(channels, engine=engine, levels=lambda score: score.relu())
    return nn.Sequential(nn.BatchNorm1d(channels), act)


class Job(NamedTuple):
    """One table: what all of its rows say, and its rivals, made when it is their turn."""

    about: Row
    works: Callable[[], dict[str, Work]]


def layers(
    rivals: Rivals, shape: tuple[int, ...], mode: str, dtype: torch.dtype = torch.float32
) -> Job:
    """Rivals at one shape, beside a copy of the input."""

    def works() -> dict[str, Work]:
        torch.manual_seed(0)
        x = torch.randn(folded(shape)).mul_(2).add_(0.5).to(dtype).requires_grad_()
        made = {}
        read = mode.startswith("eval")
        given = x.detach().mul(1.5).add_(2.0) if mode == "eval, shifted" else x
        for name, make in rivals.items():
            module = make(shape[1]).to(dtype)
            with torch.no_grad():  # a context, and running statistics, which eval reads
                for _ in range(SETTLED if read else 1):
                    module(x)
            made[name] = one_pass(module.train(not read), given, mode)
        out, source = torch.empty_like(x), x.detach()
        return made | {COPY: lambda: out.detach().copy_(source)}

    return Job({"shape": list(shape), "dtype": str(dtype)[6:], "mode": mode}, works)


def folded(shape: tuple[int, ...]) -> tuple[int, ...]:
    """All positions in one dimension, so that one BatchNorm serves every shape."""
    return (*shape[:2], math.prod(shape[2:])) if len(shape) > 2 else shape


def blocks() -> Iterator[Job]:
    """Every shape in float32, two in bfloat16, and a tensor of nothing."""
    shapes = [(shape, torch.float32) for shape in (*MAPS, TOKENS, TINY)]
    for shape, dtype in shapes + [(shape, torch.bfloat16) for shape in MAPS[::3]]:
        for mode in COPIES:
            yield layers(BLOCKS, shape, mode, dtype)


def published() -> Iterator[Job]:
    """The paper's layer, as its code has it and as here."""
    for shape in MAPS[::3]:
        yield layers(PUBLISHED, shape, "both")


def engines() -> Iterator[Job]:
    """Other ways to compute the same, down to the definition."""
    for shape in (MAPS[0], MAPS[3], MAPS[4]):
        chosen = dict(ENGINES)
        if shape == MAPS[4]:  # sums over all pairs: n^2 numbers for every channel
            chosen["reference"] = lambda c: qact.QAct(c, engine="reference")
        yield layers(chosen, shape, "both")


def growth() -> Iterator[Job]:
    """Time per value must not grow with the number of levels, nor with the batch."""
    for axis, sizes in (("levels", (10, 50, 100, 250)), ("batch", (32, 128, 512))):

        def works(axis: str = axis, sizes: tuple[int, ...] = sizes) -> dict[str, Work]:
            made = {}
            for n in sizes:
                module = paper_like(n) if axis == "levels" else qact.QAct(64)
                x = torch.randn(n if axis == "batch" else 128, 64, 256, requires_grad=True)
                made[f"{n} {axis}"] = one_pass(module, x, "both")
            return made

        yield Job({"shape": [128, 64, 16, 16], "axis": axis, "mode": "both"}, works)


def paper_like(n: int) -> nn.Module:
    """QAct.paper with another number of steps."""
    level = qact.rank.levels.steps(n)
    options = {"smooth": False, "bandwidth": 0.5, "gradient": "density", "affine": False}
    return NormedQAct(64, after=True, levels=level, **options)


def step() -> Iterator[Job]:
    """A whole training step of ResNet-18 on CIFAR images."""
    acts = {
        CONTROL: lambda c: nn.ReLU(inplace=True),
        "BatchNorm + GELU": lambda c: nn.GELU(),
        "QAct behind BatchNorm": qact.QAct,
        "NormedQAct in their place": qact.QAct,
        "QAct.paper behind BatchNorm": qact.QAct.paper,
    }
    shape = (32, 3, 32, 32)

    def works() -> dict[str, Work]:
        torch.manual_seed(0)
        x, y = torch.randn(shape), torch.randint(10, shape[:1])
        made = {}
        for name, act in acts.items():
            model = resnet18(act=act)
            model = merged(model) if "place" in name else model
            made[name] = train_step(model, torch.optim.SGD(model.parameters(), 1e-3), x, y)
        return made

    yield Job({"shape": list(shape), "mode": "step"}, works)


def merged(model: nn.Module) -> nn.Module:
    """One block where a BatchNorm stands right before an activation."""
    for block in model.modules():
        if hasattr(block, "bn1"):
            channels = block.bn1.num_features
            block.bn1, block.act1 = nn.Identity(), NormedQAct(channels)
    return model


def train_step(model: nn.Module, optimizer, x: Tensor, y: Tensor) -> Work:
    """Forward, backward and update."""

    def work() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return work


def kept() -> Iterator[tuple[Row, Callable[[], list[Row]]]]:
    """Bytes that autograd keeps for the backward pass beside the input, to the control's."""
    for shape in (*MAPS, TOKENS):

        def measure(shape: tuple[int, ...] = shape) -> list[Row]:
            x = torch.randn(folded(shape), requires_grad=True)
            sizes = {name: saved(make(shape[1]), x) for name, make in BLOCKS.items()}
            return [{name: round(size / sizes[CONTROL], 3) for name, size in sizes.items()}]

        yield {"shape": list(shape)}, measure


def saved(module: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps beside the input."""
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if t.data_ptr() != x.data_ptr():
            sizes[t.data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = module(x)
    del y
    return sum(sizes.values())


def cold() -> Iterator[tuple[Row, Callable[[], list[Row]]]]:
    """The first forward, backward and eval of a process, with nothing compiled and again."""
    yield {"what": "first calls"}, speed_cuda.first_calls


# Run in a folder of their own; the first compiles, the second finds what the first has kept.
COMMANDS = {
    "qact --help": ["--help"],
    "qact bench --help": ["bench", "--help"],
    "qact corrupt --data nothing": ["corrupt", "--data", "nothing", "--out", "x"],
    "qact corrupt, one corruption of 100 digits": [
        *("corrupt", "--data", "digits", "--limit", "100", "--corruption", "motion_blur"),
        *("--out", "{folder}"),
    ],
    "qact bench --quick": ["bench", "--quick", "--out", "{folder}"],
}


def commands() -> Iterator[tuple[Row, Callable[[], list[Row]]]]:
    """Seconds of the console's commands."""
    for name, words in COMMANDS.items():

        def measure(words: list[str] = words) -> list[Row]:
            with tempfile.TemporaryDirectory() as empty:
                rows = []
                for cache in ("empty cache", "kept cache"):
                    line = [word.format(folder=Path(empty) / cache) for word in words]
                    rows.append({"cache": cache} | ran(line, empty))
            return rows

        yield {"what": name}, measure


def ran(line: list[str], folder: str) -> Row:
    """Seconds of one command, by the clock and of the processor, its own processes' included."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "qact.cli", *line],
        env=os.environ | {"NUMBA_CACHE_DIR": str(Path(folder) / "numba"), "QACT_QUIET": "1"},
        cwd=folder,
        capture_output=True,
        check=False,  # a refusal is a command too
    )
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(wall, 2), "processor": round(spent, 2)}


JOBS = {"blocks": blocks, "published": published, "step": step}
MORE = {"engines": engines, "growth": growth}
PROCESSES = {"kept": kept, "cold": cold, "commands": commands}


def measure(record: Record, args: argparse.Namespace) -> None:
    """Every part that was asked for, and that is not there yet."""
    asked = [args.part] if args.part else [*JOBS, *PROCESSES]
    for threads in args.threads:
        torch.set_num_threads(threads)
        for part in (name for name in asked if name in JOBS | MORE):
            for job in (JOBS | MORE)[part]():
                key = job.about | {"threads": threads}
                if not record.has(part, key):
                    budget = args.seconds * (4 if part == "step" else 1)
                    rows = rows_of(in_turn(job.works(), budget), threads)
                    record.put(part, key, rows)
                    show(rows, f"{part}: {' '.join(map(str, key.values()))} thread(s)")
    for part in (name for name in asked if name in PROCESSES):
        for key, work in PROCESSES[part]():
            if not record.has(part, key):
                rows = work()
                record.put(part, key, rows)
                for row in rows:
                    Console(width=100).print(*(key | row).values())


def show(rows: list[Row], title: str) -> None:
    """Print a table; ratios only where they mean something."""
    table = Table("", "ms", "ratio", "quartiles", title=title, title_justify="left")
    for row in rows:
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else "-"
        table.add_row(row["rival"], f"{row['ms']:.4g}", ratio, str(row.get("quartiles", "")))
    Console(width=90).print(table)
    if (refused := refusal(rows)) is not None:
        Console(width=90, stderr=True).print(refused, style="red")


def markdown(record: Record) -> str:
    """What is recorded, for the docs: ratios, nanoseconds beside the floor, seconds."""
    about = record.about
    lines = [f"{about['device']}, torch {about['torch']} (CPU), Numba {about['numba']}."]
    timed = [row for part in JOBS for row in record.rows(part)]
    for threads in dict.fromkeys(row["threads"] for row in timed):
        lines += ["", f"{threads} thread{'s' * (threads > 1)}:"]
        for part in JOBS | MORE:
            rows = [row for row in record.rows(part) if row["threads"] == threads]
            lines += _ratios(rows, floors=part == "blocks")
    for part, head in (("kept", "kept"), ("cold", "seconds"), ("commands", "seconds")):
        lines += _plain(record.rows(part), head)
    return "\n".join(lines)


def _ratios(rows: list[Row], floors: bool) -> list[str]:
    """One line per shape and mode; with ``floors``, what a value takes and what a copy would."""
    lines: list[str] = []
    tables: dict[str, dict[str, Row]] = {}
    for row in rows:
        dtype = row["dtype"] if row.get("dtype") == "bfloat16" else ""
        name = " ".join(filter(None, ("x".join(map(str, row["shape"])), dtype, row.get("axis"))))
        tables.setdefault(f"{name} {row['mode']}", {})[row["rival"]] = row
    heads: list[str] = []
    for name, table in tables.items():
        first, *others = (row for rival, row in table.items() if rival != COPY)
        head = ["", f"{first['rival']}, ms", *(row["rival"] for row in others)]
        head += ["ns a value", "floor"] if floors else []
        if head != heads:
            heads = head
            lines += ["", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        ratios = [f"{row['ratio']:.2f}" if "ratio" in row else "disturbed" for row in others]
        if floors:
            ratios += _floors(table)
        lines.append("| " + " | ".join([name, f"{first['ms']:.3g}", *ratios]) + " |")
    return lines


def _floors(table: dict[str, Row]) -> list[str]:
    """Nanoseconds that a value takes in the block, and that moving it to and from memory would."""
    if COPY not in table:
        return ["", ""]
    ours, copy = table["NormedQAct"], table[COPY]
    a_value = 1e6 / math.prod(ours["shape"])
    floor = COPIES[ours["mode"]] * copy["ms"] * a_value
    return [f"{ours['ms'] * a_value:.3g}", f"{floor:.2g}"]


def _plain(rows: list[Row], head: str) -> list[str]:
    """One line per row: what it is, and its numbers."""
    if not rows:
        return []
    known = {"commit", "what", "shape", "rival", "cache", "mode"}
    numbers = [name for name in rows[0] if name not in known]
    lines = ["", f"| {head} | " + " | ".join(numbers) + " |", "|---" * (len(numbers) + 1) + "|"]
    for row in rows:
        shape = "x".join(map(str, row.get("shape", [])))
        said = (row.get("what"), shape, row.get("rival"), row.get("mode"), row.get("cache"))
        cells = [", ".join(filter(None, said)), *(f"{row[name]:g}" for name in numbers)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def bandwidth(device: str) -> float:
    """Bytes read and written per second by a plain copy of 256 MiB."""
    a = torch.ones(1 << 26, device=device)
    b = torch.empty_like(a)

    def copy() -> None:
        b.copy_(a)
        if device == "cuda":
            torch.cuda.synchronize()

    return 2 * a.numel() * 4 / min(in_turn({"copy": copy}, 0.0)["copy"].wall)


def about(args: argparse.Namespace) -> Row:
    """Machine, build and versions."""
    cuda = args.device == "cuda"
    lines = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = [line.split(":", 1)[1].strip() for line in lines.splitlines() if "model name" in line]
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False)
    return {
        "command": f"python benchmarks/speed.py --device {args.device}",
        "device": torch.cuda.get_device_name() if cuda else (named or [platform.processor()])[0],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numba": numba.__version__,
        "python": platform.python_version(),
        "commit": told.stdout.strip(),
        "copy_GB_per_s": round(bandwidth(args.device) / 1e9, 2),
    }


def main() -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--part", choices=tuple(JOBS | MORE | PROCESSES | speed_cuda.PARTS))
    parser.add_argument("--seconds", type=float, default=3.0, help="per table and mode")
    parser.add_argument("--threads", type=int, nargs="+", help="1, and as many as torch would use")
    parser.add_argument("--quick", action="store_true", help="cuda: only the shapes of batch 128")
    parser.add_argument("--table", "--markdown", action="store_true", help="print what is recorded")
    args = parser.parse_args()
    args.threads = args.threads or list(dict.fromkeys((1, torch.get_num_threads())))
    path = ROOT / "benchmarks" / "data" / f"speed-{args.device}.json"
    if args.table:
        record = Record(path)
        print(markdown(record) if args.device == "cpu" else speed_cuda.markdown(record.parts))
        return
    record = Record(path, about(args))
    if args.device == "cpu":
        measure(record, args)
        return
    args.copy, args.dry = 1e9 * record.about["copy_GB_per_s"], False
    for name, part in speed_cuda.PARTS.items():
        if args.part in (None, name):
            torch.manual_seed(0)
            record.put(name, {}, part(args))


if __name__ == "__main__":
    main()
