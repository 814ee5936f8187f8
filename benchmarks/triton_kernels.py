"""Every Triton kernel compiled as a launch would, without a GPU: registers, spills, shared memory.

    python benchmarks/triton_kernels.py                 # a few shapes, sm_80 and sm_90
    python benchmarks/triton_kernels.py --products      # the same, counted as before Triton 3.8
    python benchmarks/triton_kernels.py --all FILE      # the whole matrix, about an hour and a half
    python benchmarks/triton_kernels.py --all FILE --minutes 5    # five minutes of it, in any order

The matrix keeps its results in FILE, and the same command goes on where it was stopped; kernels or
a compiler that have changed since are done anew.

A launch makes constants of integers that are 1, and knows which integers and addresses are
multiples of 16. Triton's interpreter does neither, so a kernel that runs there may still not
compile. Here the arguments of real calls are specialised by Triton's own code.

Of each kernel's time there is a floor: what it must move, at the speed of a plain copy on an H200,
and what it must issue (`benchmarks/sass.py`), at 1.7 GHz. It is no measurement: what waits, waits
on top, and kernels without a floor here, of a program a channel, are not in the sum.
"""

import argparse
import hashlib
import itertools
import json
import math
import random
import re
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime.jit import JITFunction

import sass
from ptx.launches import compiled
from qact import Context
from qact.kernels import columns
from qact.kernels.following import Following, Norm
from qact.kernels.plan import Plan
from qact.kernels.stored import Stored
from qact.kernels.triton import block, launch, recall
from qact.rank.bandwidth import parse
from qact.rank.rule import Rule

MULTIPROCESSORS = 132  # of an H100 and an H200: it decides how many programs share a channel
# (N, C, L): one of everything, odd, multiples of 16; a channel alone in a program, and shared out.
SHAPES = [
    (1, 1, 1),
    (5, 2, 7),
    (128, 16, 16),
    (70, 1, 1),
    (17000, 1, 1),
    (20000, 33, 1),
    (4096, 1, 16),
    (1, 3, 20001),
    (3, 2, 200001),
    (128, 64, 1024),
]
REPORTED = [(128, 512, 16), (128, 64, 1024), (131072, 64, 1)]
# Megabytes that a plain copy moves in a microsecond on an H200, and millions of instructions that
# its lanes issue: 32 in each of 4 schedulers of a multiprocessor.
COPIED, ISSUED = 4.3, MULTIPROCESSORS * 4 * 32 * 1.7e3 / 1e6
PLANS = {
    "uniform": Plan(Rule(grounded=False)),
    "normal": Plan(Rule(gradient="density"), "normal", 0, 1e-5, None),
    "relu": Plan(Rule(), "relu", 0, 1e-5, 1e-5),
    "steps": Plan(Rule(), "steps", 9, None, 1e-5),
    "paper": Plan(
        Rule(bandwidth=parse(0.5), gradient="density", sentinels=1.0), "steps", 100, 1e-5, 1e-5
    ),
    "continuous": Plan(Rule("continuous"), "normal", 0, 1e-5, None),
}
# How often a kernel reads or writes all of a tensor: what it must move is that times its bytes.
# What programs hand on to each other comes on top, 16 KB for each program that counts. A channel
# alone in a program is read again out of the cache, so `whole` must move what its passes share.
TIMES = {
    "measure": 1,
    "count": 1,
    "table": 0,
    "lookup": 2,
    "sort": 2,
    "begin": 0,
    "assign": 2,
    "recall": 2,
    "sum_out": 2,
    "spread": 2,
    "sum_in": 2,
    "finish": 3,
}
WHOLE = {"forward": 2, "backward": 3}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CAPABILITIES = [80, 90]
AFFINE = [True, False]  # with scales, shifts and a running context, and without


@dataclass(frozen=True)
class Case:
    """What is compiled together: all kernels of a forward and a backward pass, and of `eval`."""

    shape: tuple[int, int, int]
    level: str
    dtype: torch.dtype
    sm: int
    affine: bool


@dataclass(frozen=True)
class Compiled:
    """One kernel as machine code, and what it needs of a multiprocessor."""

    name: str
    registers: int
    spilled: int
    shared: int


@contextmanager
def compiling(capability: int) -> Iterator[list[tuple[str, Any]]]:
    """Within the block, launches compile their kernel instead of running it; yields what came."""
    found: list[tuple[str, Any]] = []

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **constants: Any) -> None:
        found.append((self.__name__, compiled(self, args, constants, capability).kernel))

    run = JITFunction.run
    JITFunction.run = compile_only
    try:
        with multiprocessors(MULTIPROCESSORS):
            yield found
    finally:
        JITFunction.run = run


@contextmanager
def multiprocessors(count: int) -> Iterator[None]:
    """Within the block, tensors are cut as for a card that has so many."""
    before = launch._processors
    launch._processors = lambda device: count
    launch._cut.cache_clear()
    try:
        yield
    finally:
        launch._processors = before
        launch._cut.cache_clear()


def following(channels: int) -> Following:
    """A running context, and the statistics of the norms around it."""
    context, norms = Context(channels), [torch.nn.BatchNorm1d(channels) for _ in range(2)]
    held = [Norm(n.running_mean, n.running_var, n.num_batches_tracked, n.momentum) for n in norms]
    return Following(context.tensors, context.batches, 0.1, *held)


def compile_all(
    shape: tuple[int, int, int],
    plan: Plan,
    dtype: torch.dtype,
    capability: int,
    affine: bool = True,
) -> list[tuple[str, Any]]:
    """All kernels of a forward and a backward pass."""
    z = torch.zeros(shape, dtype=dtype)
    numbers = tuple(torch.ones(shape[1]) if affine else None for _ in range(6))
    with compiling(capability) as found:
        _, *saved = block.forward(z, plan, numbers, following(shape[1]) if affine else None)
        block.backward(z, z, plan, numbers, *saved)
        recall.lookup(z, stored(shape[1], plan.kind == "steps"))
    return found


def stored(channels: int, steps: bool) -> Stored:
    """A table of 512 bins for every channel."""
    one = torch.ones(channels)
    place = torch.zeros(channels, 513 if steps else 0)
    return Stored(torch.zeros(channels, 514), place, one, one.long(), one, one, one)


def moved(names: list[str], z: torch.Tensor) -> list[float]:
    """Megabytes that each of these kernels must move, in the order of their launches."""
    size, wholes = z.numel() * z.element_size() / 1e6, iter(WHOLE.values())
    return [size * (TIMES[n] if n in TIMES else next(wholes)) for n in names]


def resources(name: str, kernel: Any, capability: int) -> Compiled:
    """Ask NVIDIA's assembler, which comes with Triton."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(kernel.asm["ptx"])
        suffix = "a" if capability >= 90 else ""
        command = [
            get_ptxas(capability).path,
            "-v",
            "--fmad=false",
            f"--gpu-name=sm_{capability}{suffix}",
            source,
            "-o",
            "/dev/null",
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = int(re.search(r"Used (\d+) registers", said)[1])  # type: ignore[index]
    spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill", said))
    return Compiled(name, registers, spilled, kernel.metadata.shared)


@cache
def fingerprint() -> str:
    """Of the kernels, of what compiles them, and of what is compiled."""
    folder = Path(launch.__file__).parent
    sources = [*sorted(folder.glob("*.py")), Path(columns.__file__)]
    told = [path.read_text() for path in sources] + [triton.__version__, str(PLANS)]
    return hashlib.sha256("".join(told).encode()).hexdigest()[:16]


def matrix() -> list[Case]:
    """Every case, in an order of no meaning: so whatever part is done covers all that there is."""
    cases = [Case(*case) for case in itertools.product(SHAPES, PLANS, DTYPES, CAPABILITIES, AFFINE)]
    random.Random(0).shuffle(cases)
    return cases


def examined(case: Case) -> dict[str, Any]:
    """One case compiled: name, registers, spilled bytes and shared memory of each kernel."""
    row: dict[str, Any] = {"fingerprint": fingerprint(), **asdict(case), "kernels": []}
    row["dtype"] = str(case.dtype).removeprefix("torch.")
    try:
        plan = PLANS[case.level]
        for name, kernel in compile_all(case.shape, plan, case.dtype, case.sm, case.affine):
            row["kernels"].append(astuple(resources(name, kernel, case.sm)))
    except Exception as error:  # a compiler's, of any kind
        cause = error.__cause__ or error
        row["error"] = f"{error}: {type(cause).__name__}: {cause}"[:500]
    return row


def known(path: Path) -> dict[str, dict[str, Any]]:
    """What is in the file for these kernels and this compiler, by case."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {name_of(row): row for row in rows if row["fingerprint"] == fingerprint()}


def name_of(row: dict[str, Any]) -> str:
    """A case in a word."""
    shape = "x".join(map(str, row["shape"]))
    return f"{shape} {row['level']} {row['dtype']} {row['sm']} {row['affine']}"


def compile_matrix(path: Path, minutes: float) -> None:
    """Go on with the matrix, one line of the file for each case as it is done."""
    end, done = time.monotonic() + 60 * minutes, known(path)
    for case in matrix():
        row = {**asdict(case), "dtype": str(case.dtype).removeprefix("torch.")}
        if name_of(row) in done:
            continue
        if time.monotonic() > end:
            break
        row = examined(case)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(name_of(row), row.get("error", f"{len(row['kernels'])} kernels"), flush=True)
    summary(known(path))


def summary(rows: dict[str, dict[str, Any]]) -> None:
    """Over all that was compiled: how often, and the most that a kernel needs."""
    failed = [name for name, row in rows.items() if "error" in row]
    print(f"triton {triton.__version__}, torch {torch.__version__}: ", end="")
    print(f"{len(rows)} of {len(matrix())} cases, {len(failed)} failed", *failed, sep="\n  ")
    print(f"{'kernel':10}{'sm':4}{'compiled':>9}{'regs':>6}{'spilled':>9}{'shared':>8}")
    most: dict[tuple[str, int], list[Any]] = defaultdict(list)
    for row in rows.values():
        for name, *needs in row["kernels"]:
            most[name, row["sm"]].append(needs)
    for (name, sm), needs in sorted(most.items()):
        registers, spilled, shared = map(max, zip(*needs, strict=True))
        print(f"{name:10}{sm:<4}{len(needs):9}{registers:6}{spilled:9}{shared:8}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--all", type=Path, metavar="FILE", help="the matrix, one line a case")
    parser.add_argument("--minutes", type=float, default=math.inf, help="and no case after so many")
    parser.add_argument("--products", action="store_true", help="count bins without histograms")
    options = parser.parse_args()
    if options.all:
        compile_matrix(options.all, options.minutes)
        return
    if options.products:
        launch.HISTOGRAM = False
    report()


def report() -> None:
    """Every kernel at a few shapes: what it needs, and the floor of its time."""
    print(f"triton {triton.__version__}, torch {torch.__version__}, float32")
    heads = (f"{'shape':15}{'level':7}{'sm':4}{'kernel':9}", "regs  spill  shared      MB")
    print(*heads, " slots    us", sep="")
    for sm, shape, level in itertools.product(CAPABILITIES, REPORTED, ("relu", "paper")):
        found = compile_all(shape, PLANS[level], torch.float32, sm)
        z, total = torch.empty(shape), 0.0
        size = "x".join(map(str, shape))
        for (name, kernel), megabytes in zip(found, moved([n for n, _ in found], z), strict=True):
            it, slots = resources(name, kernel, sm), sass.slots(name, kernel)
            floor = max(megabytes / COPIED, (slots or 0) * z.numel() / 1e6 / ISSUED)
            total += floor if name != "recall" else 0
            print(
                f"{size:15}{level:7}{sm:<4}{name:9}"
                f"{it.registers:4}{it.spilled:7}{it.shared:8}{megabytes:8.2f}"
                f"{'' if slots is None else round(slots):6}{floor:6.0f}",
                flush=True,
            )
        print(f"{size:15}{level:7}{sm:<4}forward and backward, at least {total:.0f} us\n")


if __name__ == "__main__":
    main()
