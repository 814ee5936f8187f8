"""What compiled Triton kernels issue and move, counted while they run on this processor.

    python benchmarks/triton_traffic.py                 # a channel of 128x64x32x32, sm_90
    python benchmarks/triton_traffic.py --features      # sixteen channels, the last dimension
    python benchmarks/triton_traffic.py --zeros         # half of the values are zero: one bin

Needs no GPU: the kernels' PTX runs lane by lane (`benchmarks/ptx`). A channel is cut into as many
programs as on a card with 132 multiprocessors. For every kernel, each of them for a value:

    issued   instructions, of PTX, not of machine code
    L1       bytes of global memory that a warp touches at once, in sectors of 32
    shared   turns of shared memory, of 32 lanes; two words of one bank take two
    atomics  turns of its atomics, if lanes at one address come one after the other

and floors of the time at 128x64x32x32, if nothing but this were done, on an H200: instructions at
four a clock, L1 at 128 bytes a clock, shared memory at a turn a clock, all at 1.7 GHz on 132
multiprocessors; and what must come from memory, at the speed of a copy. None is a measurement.
"""

import argparse

import torch

from ptx.counts import Counts
from ptx.launches import running
from ptx.warps import WARP
from qact.kernels.triton import block, launch, recall
from triton_kernels import COPIED, MULTIPROCESSORS, PLANS, moved, multiprocessors, stored

VALUES = 128 * 64 * 1024  # floors are of so many
CLOCK = MULTIPROCESSORS * 1.7e3  # of all multiprocessors in a microsecond
SCHEDULERS, CACHE = 4, 128  # a multiprocessor's: warps that issue, and bytes of L1, a clock
# One channel of many, in as many programs as there (16); and sixteen, of a fourth of the values.
PLANE, FEATURES = (128, 1, 1024), (32768, 16, 1)
PROGRAMS = {PLANE: 16, FEATURES: 32}


def traffic(shape: tuple[int, int, int], level: str, zeros: bool) -> list[tuple[str, Counts]]:
    """Every kernel of a forward and a backward pass, and of `eval`, with what it did."""
    draw = torch.Generator().manual_seed(0)
    z, g = (torch.randn(shape, generator=draw) for _ in range(2))
    if zeros:
        z = z.relu()
    plan, numbers = PLANS[level], tuple(torch.ones(shape[1]) for _ in range(6))
    with (
        multiprocessors(PROGRAMS[shape] // launch.WAVES),
        running(90, watched=False, counting=True) as ran,
    ):
        _, *saved = block.forward(z, plan, numbers)
        block.backward(z, g, plan, numbers, *saved)
        recall.lookup(z, stored(shape[1], plan.kind == "steps"))
    return [(it.name, it.counts or Counts()) for it in ran]


def floors(counts: Counts, values: int, megabytes: float) -> dict[str, float]:
    """Microseconds that a kernel takes at least at 128x64x32x32, by what binds it."""
    times = VALUES / values
    return {
        "issue": times * counts.issued / (SCHEDULERS * CLOCK),
        "L1": times * counts.moved / (CACHE * CLOCK),
        "shared": times * (counts.shared + counts.atomics) / CLOCK,
        "memory": times * megabytes / COPIED,
    }


def report(shape: tuple[int, int, int], level: str, zeros: bool) -> None:
    """One plan's kernels, and their floors together."""
    found, z = traffic(shape, level, zeros), torch.empty(shape)
    n, total = z.numel(), 0.0
    told = "half zeros" if zeros else "normal"
    print(f"\n{'x'.join(map(str, shape))} {level}, {told}: for each value, and floors in us")
    heads = ("issued", "L1", "shared", "atomics", "|", "issue", "L1", "shared", "memory")
    print(f"{'':9}" + "".join(f"{head:>8}" for head in heads))
    for (name, it), megabytes in zip(found, moved([name for name, _ in found], z), strict=True):
        each = (WARP * it.issued / n, it.moved / n, WARP * it.shared / n, WARP * it.atomics / n)
        least = floors(it, n, megabytes)
        total += max(least.values()) if name != "recall" else 0.0
        numbers = "".join(f"{number:8.1f}" for number in each)
        print(f"{name:9}{numbers}{'|':>8}" + "".join(f"{t:8.1f}" for t in least.values()))
    print(f"forward and backward, at least {total:.0f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--features", action="store_true", help="channels are the last dimension")
    parser.add_argument("--zeros", action="store_true", help="half of the values are zero")
    options = parser.parse_args()
    for level in ("relu", "paper"):
        report(FEATURES if options.features else PLANE, level, options.zeros)


if __name__ == "__main__":
    main()
