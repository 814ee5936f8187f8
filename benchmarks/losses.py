"""Forward and backward of every loss against torch's cross-entropy, in time and peak memory.

    python benchmarks/losses.py                # all shapes; rows are written as they come
    python benchmarks/losses.py --shape 0 1    # the small ones
    python benchmarks/losses.py --watershed OLD_SRC  # watershed against the build in another folder
    python benchmarks/losses.py --mining       # hard mining against pytorch-metric-learning

One thread. Each loss is timed in turns with cross-entropy (heads: with a linear layer before it, 64
features), in processor time, which other programs on the machine disturb less; a ratio is that of
the least times. Freed memory of up to 32 MiB is kept by the process, or half of the times would be
those of the pages that it asks for anew. Memory is the highest resident size above that at rest, at
the largest shape alone: smaller ones disappear in what the allocator keeps. Writes
`benchmarks/data/losses/speed.json`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from qact import losses

SHAPES = ((512, 10), (512, 1000), (4096, 32000))
ROUNDS = (300, 30, 2)
SIZE = 64  # of embeddings
PATH = Path(__file__).parent / "data" / "losses" / "speed.json"
WATERSHED = """
import time, torch
from qact.losses import watershed_loss
torch.set_num_threads({threads})
torch.manual_seed(0)
y = torch.randint(10, (1024,))
x = (torch.randn(1024, 512) + torch.randn(10, 512)[y]).requires_grad_()
def once():
    begin = time.{clock}()
    watershed_loss(x, y).backward()
    return time.{clock}() - begin
[once() for _ in range(3)]
while input():
    print(min(once() for _ in range(3)), flush=True)
"""


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak(work: Callable[[], None], leaves: list[torch.Tensor]) -> float:
    """MiB that a call needs above what is held before it, the gradient that it leaves included."""
    for leaf in leaves:
        leaf.grad = None
    rest = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return (resident("VmHWM") - rest) / 2**20


def seconds(work: Callable[[], None]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


Pair = tuple[Callable[[], None], Callable[[], None], list[torch.Tensor]]


def pair(name: str, n: int, classes: int) -> Pair:
    """What is measured, the cross-entropy beside it, and what has gradients."""
    torch.manual_seed(0)
    target = torch.randint(classes, (n,))
    if losses.entry(name).of == "logits":
        loss, z = losses.create(name), torch.randn(n, classes).mul_(3).requires_grad_()
        leaves = [z]
        plain = _step(lambda: F.cross_entropy(z, target), leaves)
        return _step(lambda: loss(z, target), leaves), plain, leaves
    head, x = losses.create(name, SIZE, classes), torch.randn(n, SIZE).requires_grad_()
    linear = torch.nn.Linear(SIZE, classes, bias=False)
    leaves = [x, *head.parameters(), *linear.parameters()]
    plain = _step(lambda: F.cross_entropy(linear(x), target), leaves)
    return _step(lambda: head(x, target), leaves), plain, leaves


def _step(loss: Callable[[], torch.Tensor], leaves: list[torch.Tensor]) -> Callable[[], None]:
    def work() -> None:
        for leaf in leaves:
            leaf.grad = None
        loss().backward()

    return work


def watershed(old: str, threads: int) -> float:
    """How many times faster the watershed loss is than that of another source folder."""
    clock = "process_time" if threads == 1 else "perf_counter"
    code = WATERSHED.format(threads=threads, clock=clock)
    sides = []
    for source in (old, str(Path(losses.__file__).parents[2])):
        env = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": str(threads)}
        sides.append(
            subprocess.Popen(
                [sys.executable, "-c", code],
                env=env,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
    best = [float("inf")] * 2
    for _ in range(5):
        for k, side in enumerate(sides):
            side.stdin.write("on\n")
            side.stdin.flush()
            best[k] = min(best[k], float(side.stdout.readline()))
    for side in sides:
        side.communicate("\n")
    return best[0] / best[1]


def mining() -> dict[str, float]:
    """How many times faster a triplet loss with hard mining is, forward and backward."""
    from pytorch_metric_learning import distances, miners
    from pytorch_metric_learning import losses as theirs

    plain, found = distances.LpDistance(normalize_embeddings=False), {}
    miner, loss = (
        miners.BatchHardMiner(distance=plain),
        theirs.TripletMarginLoss(1.0, distance=plain),
    )
    for n, size in ((512, 128), (512, 512), (1024, 512)):
        torch.manual_seed(0)
        y = torch.randint(32, (n,))
        x = (torch.randn(n, size) + torch.randn(32, size)[y]).requires_grad_()
        steps = (
            _step(lambda x=x, y=y: losses.triplet_loss(x, y, miner="hard"), [x]),
            _step(lambda x=x, y=y: loss(x, y, miner(x, y)), [x]),
        )
        best = [float("inf")] * 2
        for _ in range(30):
            for i, step in enumerate(steps):
                best[i] = min(best[i], seconds(step))
        found[f"{n} x {size}"] = round(best[1] / best[0], 2)
    return found


KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**30)}


def main() -> None:
    if any(name not in os.environ for name in KEPT):  # glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEPT)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", type=int, nargs="*", default=range(len(SHAPES)))
    parser.add_argument("--loss", nargs="*", help="these alone")
    parser.add_argument("--watershed", metavar="OLD_SRC")
    parser.add_argument("--mining", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(PATH.read_text()) if PATH.exists() else {"rows": []}
    found |= {"machine": f"{platform.machine()}, 1 thread, shared", "torch": torch.__version__}
    if options.watershed:
        found["watershed, 1024 x 512, times faster"] = {
            f"{k} threads": round(watershed(options.watershed, k), 2) for k in (1, 2)
        }
        print(found["watershed, 1024 x 512, times faster"])
        options.shape = []
    if options.mining:
        found["hard mining, times faster"] = mining()
        print(found["hard mining, times faster"])
        options.shape = []
    names = options.loss or losses.names(of="logits") + losses.names(of="head")
    for k in options.shape:
        n, classes = SHAPES[k]
        for name in names:
            work, plain, leaves = pair(name, n, classes)
            best = [float("inf")] * 2
            for _ in range(ROUNDS[k]):
                for i, step in enumerate((work, plain)):
                    best[i] = min(best[i], seconds(step))
            row = {"loss": name, "shape": [n, classes], "time": round(best[0] / best[1], 2)}
            row["cross_entropy_ms"] = round(1000 * best[1], 3)
            if k == 2:
                row["memory"] = round(peak(work, leaves) / peak(plain, leaves), 2)
            print(row, flush=True)
            kept = [r for r in found["rows"] if (r["loss"], r["shape"]) != (name, [n, classes])]
            found["rows"] = [*kept, row]
            PATH.parent.mkdir(parents=True, exist_ok=True)
            PATH.write_text(json.dumps(found, indent=1) + "\n")
    PATH.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
