"""What a QAct layer costs on a GPU.

    python benchmarks/speed_cuda.py --warm           # compiles all kernels, in 14 processes
    python benchmarks/speed_cuda.py --part blocks    # or: step, cold, compiled
    python benchmarks/speed_cuda.py --markdown       # prints what is recorded
    python benchmarks/speed_cuda.py --dry            # the script itself, on a CPU, without times

Beside the eager time, which has the host in it, stands that of a CUDA graph's replay: the kernels
alone. The share is what the fewest possible reads and writes of the data would take at the speed of
a plain copy, of the replay: 3 forward (statistics need the data once more), 5 backward, 2 in
``eval``. Peak memory is what a call allocates at most beside what there was. A cold start is a
process of its own that compiles with an empty cache.

Every table is written as it comes to `benchmarks/data/speed-cuda.json`, with card and versions:
what is stopped keeps what it has, and a part that is run again replaces its own rows alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import qact
from published import Published
from qact.models import resnet18
from qact.nn.normed import NormedQAct

DATA = Path(__file__).resolve().parent / "data" / "speed-cuda.json"
CONTROL = "BatchNorm + ReLU"
COMPILED, PUBLISHED = f"{CONTROL}, torch.compile", "published formulation"
# ResNet-18 on CIFAR at batch 128, and an MLP's features.
MAPS = [(128, 64, 32, 32), (128, 128, 16, 16), (128, 256, 8, 8), (128, 512, 4, 4), (128, 512)]
LARGE = [(512, 64, 32, 32), (512, 512, 4, 4)]
PASSES = {"forward": 3, "both": 8, "eval": 2}
BATCHES = (32, 128, 512)
Row = dict[str, Any]
Work = Callable[[], object]


def normed(activation: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    """BatchNorm of any shape before an activation."""
    return lambda c: nn.Sequential(Norm(c), activation())


class Norm(nn.BatchNorm2d):
    """BatchNorm of maps and of features."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass


RIVALS: dict[str, Callable[[int], nn.Module]] = {
    CONTROL: normed(nn.ReLU),
    COMPILED: lambda c: torch.compile(RIVALS[CONTROL](c), dynamic=False),
    "BatchNorm + GELU": normed(nn.GELU),
    "NormedQAct": NormedQAct,
    "QAct": qact.QAct,
    "QAct.paper": qact.QAct.paper,
    PUBLISHED: Published,
}


def cases(args: argparse.Namespace) -> Iterator[tuple[tuple[int, ...], torch.dtype, str]]:
    """Shape, precision and memory layout; what is wanted most comes first."""
    shapes = [(4, 3, 5, 5), (6, 3)] if args.dry else MAPS + ([] if args.quick else LARGE)
    for dtype in (torch.float32, torch.bfloat16):
        for layout in ("contiguous", "channels_last"):
            yield from ((s, dtype, layout) for s in shapes if layout == "contiguous" or len(s) == 4)


def blocks(args: argparse.Namespace) -> list[Row]:
    """Every rival but compiled ones, in every case; the published formulation in float32."""
    rows: list[Row] = []
    for shape, dtype, layout in cases(args):
        plain = (dtype, layout) == (torch.float32, "contiguous")
        names = [n for n in RIVALS if n != COMPILED and (plain or n != PUBLISHED)]
        rows += compared(names, shape, dtype, layout, args)
        show(rows, f"{shape}, {str(dtype)[6:]}, {layout}")
        keep(args, "blocks", rows)
    return rows


def compiled(args: argparse.Namespace) -> list[Row]:
    """BatchNorm + ReLU under ``torch.compile``, which takes a minute a shape to compile."""
    rows: list[Row] = []
    for shape in [(6, 3)] if args.dry else (MAPS[0], MAPS[3], MAPS[4]):
        names = [CONTROL, COMPILED, "NormedQAct"]
        rows += compared(names, shape, torch.float32, "contiguous", args)
        show(rows, f"{shape}, float32: torch.compile")
        keep(args, "compiled", rows)
    return rows + step(args, "compiled", rows)


def compared(
    names: list[str], shape: tuple[int, ...], dtype: torch.dtype, layout: str, args: Any
) -> list[Row]:
    """One table: eager and replayed, in turn in one process."""
    torch.manual_seed(0)
    x = torch.randn(shape, device=args.device).mul_(2).add_(0.5).to(dtype)
    x = x.contiguous(memory_format=getattr(torch, f"{layout}_format", torch.channels_last))
    x.requires_grad_()
    modules = {name: RIVALS[name](shape[1]).to(args.device) for name in names}
    rows = []
    for mode in PASSES:
        works = {n: one_pass(m.train(mode != "eval"), x, mode) for n, m in modules.items()}
        about = {"mode": mode, "shape": shape, "dtype": str(dtype)[6:], "layout": layout}
        found = measured(works, args)
        floor = PASSES[mode] * x.numel() * x.element_size() / args.copy
        for row in found:
            if row.get("graph_ms"):
                row["share"] = round(1e3 * floor / row["graph_ms"], 3)
        rows += [about | row for row in found]
    return rows


def one_pass(module: nn.Module, x: Tensor, mode: str) -> Work:
    """One call of a layer."""
    grad = torch.randn_like(x)

    def both() -> None:
        x.grad = None
        module(x).backward(grad)

    def forward() -> None:
        with torch.no_grad():
            module(x)

    return both if mode == "both" else forward


def measured(works: dict[str, Work], args: Any) -> list[Row]:
    """Milliseconds of eager calls and of replays, launches and memory; or why a rival fails."""
    rows: dict[str, Row] = {}
    eager: dict[str, Work] = {}
    replays: dict[str, Work] = {}
    for name, call in works.items():
        rows[name] = {"rival": name}
        try:
            for _ in range(3):
                call()
            rows[name] |= {"launches": launches(call, args), "peak_mb": peak(call, args)}
            eager[name] = call
            replays[name] = replay(call, args)
        except Exception as error:  # any compiler's, and what a graph cannot capture
            rows[name]["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
    for kind, chosen, calls in (("eager", eager, 1), ("graph", replays, 10)):
        times = in_turn(chosen, calls, args)
        control = times.get(CONTROL)
        for name, mine in times.items():
            rows[name][f"{kind}_ms"] = round(statistics.median(mine), 5)
            if control:
                ratios = [a / b for a, b in zip(mine, control, strict=True)]
                rows[name][f"{kind}_ratio"] = round(statistics.median(ratios), 3)
    return list(rows.values())


def in_turn(works: dict[str, Work], calls: int, args: Any) -> dict[str, list[float]]:
    """Milliseconds of rounds A B C A B C, as many as the budget allows."""
    if not works:
        return {}
    once = sum(milliseconds(call, calls, args) for call in works.values()) * calls
    count = max(3, min(100, int(1e3 * args.seconds / once)))
    one = [{n: milliseconds(call, calls, args) for n, call in works.items()} for _ in range(count)]
    return {name: [times[name] for times in one] for name in works}


def milliseconds(call: Work, calls: int, args: Any) -> float:
    """Of one call of so many, by the device's own clock; the host waits before and after."""
    if args.dry:
        call()
        return 1.0
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / calls


def replay(call: Work, args: Any) -> Work:
    """The same kernels without the host: captured once, on a stream of its own as torch asks."""
    if args.dry:
        return call
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def launches(call: Work, args: Any) -> int | None:
    """Kernels, copies and fills that one call starts on the device."""
    if args.dry:
        return None
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        call()
        torch.cuda.synchronize()
    cuda = torch.autograd.DeviceType.CUDA
    return sum(event.device_type == cuda for event in profile.events())


def peak(call: Work, args: Any) -> float | None:
    """MB that a call allocates at most."""
    if args.dry:
        return None
    call()  # gradients that stay are there
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 1e6, 2)


def step(
    args: argparse.Namespace, part: str = "step", before: list[Row] | None = None
) -> list[Row]:
    """A training step of ResNet-18 on CIFAR images: bfloat16 autocast, channels last.

    In the part "compiled" with ``torch.compile``, at batch 128 alone.
    """
    acts: dict[str, Any] = {
        CONTROL: lambda c: nn.ReLU(inplace=True),
        "BatchNorm + GELU": lambda c: nn.GELU(),
        "QAct behind BatchNorm": qact.QAct,
        "QAct.paper behind BatchNorm": qact.QAct.paper,
    }
    compiling, rows = part == "compiled", []
    if compiling:
        acts = {name: acts[name] for name in (CONTROL, "QAct behind BatchNorm")}
    for batch in (4,) if args.dry else BATCHES[1:2] if compiling else BATCHES:
        x = torch.randn(batch, 3, 32, 32, device=args.device)
        x = x.contiguous(memory_format=torch.channels_last)
        y = torch.randint(10, (batch,), device=args.device)
        works = {}
        for name, act in acts.items():
            torch.manual_seed(0)
            model = resnet18(act=act).to(args.device, memory_format=torch.channels_last)
            works[name] = train_step(model, x, y)
            if compiling and not args.dry:
                again = copy.deepcopy(model)
                works[f"{name}, torch.compile"] = train_step(again, x, y, compiled=True)
        found = measured(works, args)
        rows += [{"mode": "step", "shape": tuple(x.shape), "dtype": "bfloat16"} | r for r in found]
        show(rows, f"ResNet-18, one training step, batch {batch}")
        keep(args, part, [*(before or []), *rows])
    return rows


def train_step(model: nn.Module, x: Tensor, y: Tensor, compiled: bool = False) -> Work:
    """Forward, backward and update, all of it capturable."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    # The replay of a whole step is measured apart, so that graphs are not nested.
    run = torch.compile(model, dynamic=False) if compiled else model

    def work() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16):
            loss = nn.functional.cross_entropy(run(x), y)
        loss.backward()
        optimizer.step()

    return work


COLD = """
import time, torch, qact
x = torch.randn(128, 64, 32, 32, device="{device}", requires_grad=True)
layer = qact.QAct(64).to(x.device)
def done(mode, begin=[]):
    torch.cuda.synchronize() if x.is_cuda else None
    if begin:
        print(mode, time.perf_counter() - begin[0], time.process_time() - begin[1])
    begin[:] = time.perf_counter(), time.process_time()
done("made")
y = layer(x)
done("forward")
y.sum().backward()
done("backward")
layer.eval()(x.detach())
done("eval")
"""


def first_calls(device: str = "cpu") -> list[Row]:
    """Seconds of the first calls, compiling, and of those of the next process."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as empty:
        caches = {"TRITON_CACHE_DIR": empty, "NUMBA_CACHE_DIR": empty}
        for cache in ("empty cache", "kept cache"):
            told = subprocess.run(
                [sys.executable, "-c", COLD.format(device=device)],
                env=os.environ | caches | {"QACT_QUIET": "1"},
                capture_output=True,
                text=True,
                check=True,
            )
            for line in told.stdout.splitlines():
                mode, wall, spent = line.split()
                row = {"rival": "QAct", "mode": mode, "cache": cache}
                rows.append(
                    row | {"seconds": round(float(wall), 2), "processor": round(float(spent), 2)}
                )
    return rows


def cold(args: argparse.Namespace) -> list[Row]:
    """Compilation at first use, and what is kept of it."""
    rows = first_calls(args.device)
    Console(width=80).print("\n".join(map(_seconds, rows)))
    keep(args, "cold", rows)
    return rows


def _seconds(row: Row) -> str:
    return f"{row['rival']}, {row['mode']}, {row['cache']}: {row['seconds']} s"


def about(args: argparse.Namespace) -> Row:
    """The card, what is installed, and how fast a plain copy is here."""
    versions: Row = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("triton", "qact"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    commit = subprocess.run(
        ["git", "-C", str(DATA.parent), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    card: Row = {"device": platform.processor() or "CPU", "copy_GB_per_s": 1.0}
    if args.device == "cuda":
        told = torch.cuda.get_device_properties(0)
        card = {
            "device": told.name,
            "capability": f"{told.major}.{told.minor}",
            "multiprocessors": told.multi_processor_count,
            "memory_GB": round(told.total_memory / 1e9, 1),
            "cuda": torch.version.cuda,
            "copy_GB_per_s": round(copied() / 1e9, 1),
        }
    return card | versions | {"commit": commit.stdout.strip() or None}


def copied() -> float:
    """Bytes read and written per second by a plain copy of 1 GiB."""
    a = torch.ones(1 << 28, device="cuda")
    b = torch.empty_like(a)
    dry = argparse.Namespace(dry=False)
    best = min(milliseconds(lambda: b.copy_(a), 1, dry) for _ in range(9))
    return 2 * a.numel() * 4 / (1e-3 * best)


def keep(args: argparse.Namespace, part: str, rows: list[Row]) -> None:
    """Write what a part has so far, beside what is there of others."""
    path = getattr(args, "out", None)
    if path is None:
        return
    record = json.loads(path.read_text()) if path.exists() else {}
    record |= {"about": args.about, part: rows}
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(record, indent=1) + "\n")
    unfinished.replace(path)


def warm(args: argparse.Namespace) -> None:
    """Let processes side by side compile the kernels of every case, so that none is timed cold."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=spawn) as pool:
        for told in pool.map(partial(warmed, args), range(len(list(cases(args))))):
            print(told, flush=True)


def warmed(args: argparse.Namespace, number: int) -> str:
    """One case: every layer of ours in every mode, once."""
    shape, dtype, layout = list(cases(args))[number]
    names = ["NormedQAct", "QAct", "QAct.paper"]
    rows = compared(names, shape, dtype, layout, argparse.Namespace(**{**vars(args), "dry": True}))
    errors = sorted({row["error"] for row in rows if "error" in row})
    return f"{shape}, {str(dtype)[6:]}, {layout}: {errors or 'compiled'}"


COLUMNS = {
    "eager_ms": "ms",
    "eager_ratio": "ratio",
    "graph_ms": "graph, ms",
    "graph_ratio": "ratio",
    "launches": "launches",
    "share": "of copy",
    "peak_mb": "MB",
}


def show(rows: list[Row], title: str) -> None:
    """Print the rows that have the last one's shape, precision and layout."""

    def key(row: Row) -> tuple[Any, ...]:
        return row["shape"], row.get("dtype"), row.get("layout")

    table = Table(title=title, title_justify="left")
    for name in ("", "", *COLUMNS.values()):
        table.add_column(name, justify="right" if name else "left", overflow="fold")
    for row in (row for row in rows if key(row) == key(rows[-1])):
        cells = (row.get(name) for name in COLUMNS)
        listed = ["-" if cell is None else f"{cell:.3g}" for cell in cells]
        table.add_row(row["rival"], row["mode"], *listed)
        if "error" in row:
            table.add_row("", "", row["error"])
    Console(width=100).print(table)


def markdown(record: Row) -> str:
    """What is recorded, one row per rival and mode, for the docs."""
    about = record["about"]
    lines = [f"{about['device']}, torch {about['torch']}. A copy: {about['copy_GB_per_s']} GB/s."]
    for part in ("blocks", "step", "compiled"):
        head = ["shape", "", "mode", *COLUMNS.values()]
        lines += ["", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for row in record.get(part, []):
            shape = "x".join(map(str, row["shape"]))
            where = " ".join([shape, row["dtype"], row.get("layout", "")]).strip()
            cells = (row.get(name) for name in COLUMNS)
            listed = ["–" if cell is None else f"{cell:.3g}" for cell in cells]
            lines.append("| " + " | ".join([where, row["rival"], row["mode"], *listed]) + " |")
    cold = record.get("cold", [])
    return "\n".join([*lines, "", *map(_seconds, cold)])


PARTS = {"blocks": blocks, "step": step, "cold": cold, "compiled": compiled}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=tuple(PARTS), action="append", help="all, if none")
    parser.add_argument("--seconds", type=float, default=0.5, help="per table, mode and kind")
    parser.add_argument("--quick", action="store_true", help="only the shapes of batch 128")
    parser.add_argument("--out", type=Path, default=DATA, help="where results are kept")
    parser.add_argument("--markdown", action="store_true", help="print what is recorded")
    parser.add_argument("--warm", action="store_true", help="compile, and measure nothing")
    parser.add_argument("--jobs", type=int, default=14, help="processes that compile")
    parser.add_argument(
        "--dry", action="store_true", help="on a CPU, no times, and written only to a named --out"
    )
    args = parser.parse_args()
    if args.markdown:
        print(markdown(json.loads(args.out.read_text())))
        return
    if args.dry and args.out == DATA:
        args.out = None
    args.device = "cpu" if args.dry else "cuda"
    args.copy = 1e9
    if args.warm:
        warm(args)
        return
    args.about = about(args)
    args.copy = 1e9 * args.about["copy_GB_per_s"]
    for name in args.part or PARTS:
        torch.manual_seed(0)
        PARTS[name](args)


if __name__ == "__main__":
    main()
