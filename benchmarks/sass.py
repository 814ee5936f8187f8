"""Of a compiled Triton kernel: how many instructions it issues for every value.

NVIDIA's disassembler, which comes with Triton, prints a kernel's instructions. Its loop over tiles
is the largest that reads global memory and has no such loop within it; loops inside of that one do
not read, and are told how often they run. Each instruction of a warp takes one slot of a scheduler,
so instructions of a tile's loop times lanes by values of a tile is a floor of the time: one that
holds where no instruction waits. Branches are taken to be issued.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton

DISASSEMBLER = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
LABEL, LINE = re.compile(r"\s*(\.L_x_\d+):"), re.compile(r"\s*/\*[0-9a-f]+\*/\s+(.*?)\s*;")
JUMP = re.compile(r"\bBRA\b.*`\((\.L_x_\d+)\)")
Loop = tuple[int, int]


def instructions(cubin: bytes) -> tuple[list[str], list[Loop]]:
    """All of a kernel, and its loops as first and last instruction."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [DISASSEMBLER, "-c", file]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: list[str] = []
    labels: dict[str, int] = {}
    for line in said.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(found)
        elif instruction := LINE.match(line):
            found.append(instruction[1])
    jumps = [(labels[to[1]], i) for i, line in enumerate(found) if (to := JUMP.search(line))]
    # The last instruction of every kernel jumps to itself.
    return found, [(first, last) for first, last in jumps if first < last]


def issued(cubin: bytes, times: int = 1) -> int:
    """Instructions of a warp for one tile; loops within that of the tiles run so many ``times``."""
    found, loops = instructions(cubin)
    readers = [loop for loop in loops if any("LDG" in line for line in span(found, loop))]
    inner = [loop for loop in readers if not any(within(other, loop) for other in readers)]
    if not inner:
        return len(found)  # no loop: a program has one tile
    tile = max(inner, key=lambda loop: loop[1] - loop[0])
    again = [loop for loop in loops if within(loop, tile)]
    again = [loop for loop in again if not any(within(loop, other) for other in again)]
    return length(tile) + (times - 1) * sum(map(length, again))


def span(found: list[str], loop: Loop) -> list[str]:
    return found[loop[0] : loop[1] + 1]


def length(loop: Loop) -> int:
    return loop[1] - loop[0] + 1


def within(inner: Loop, outer: Loop) -> bool:
    """Whether one loop is a part of another."""
    return inner != outer and outer[0] <= inner[0] and inner[1] <= outer[1]


def constants(kernel: Any) -> dict[str, Any]:
    """A kernel's constants by their names."""
    names = kernel.src.fn.arg_names
    return {names[path[0]]: value for path, value in kernel.src.constants.items() if len(path) == 1}


def slots(name: str, kernel: Any) -> float | None:
    """Instructions issued for a value; of a pass over the data that is a kernel of its own."""
    known = constants(kernel)
    if name == "sort":
        values = known["RUN"]
    elif name not in ("whole", "table", "begin") and "ROWS" in known:
        values = known["ROWS"] * known["V"] * known["K"]
    else:
        return None
    # Gradients have 24 bits: `qact.kernels.triton.histograms.added` loops over digits of as many
    # values as there is room for. In products there is no such loop.
    digits = 1
    if name == "spread":
        digits = 24 // int(math.log2((8192 if known["K"] == 1 else 4096) // known["SPAN"]))
    return issued(kernel.asm["cubin"], digits) * kernel.metadata.num_warps * 32 / values
