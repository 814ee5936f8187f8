"""What lanes hold: their registers, their memory, and which of them run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ptx.counts import Counts
from ptx.memory import FaultError, Memory, Region
from ptx.program import Address, Instruction, Operand, Program
from ptx.races import BARRIERS, Watch, Who
from ptx.values import TYPES, Lanes, constant, read, register, write
from ptx.warps import WARP

PARAMETER = 8  # bytes of one, at most
GARBAGE = 0xAB  # what shared memory and registers hold before they are written


class State:
    """Some programs of a grid, and their memory.

    Args:
        program: the kernel.
        arguments: its parameters, as bits.
        programs: which of the grid, (count, 3).
        grid: how many there are.
        memory: what their addresses mean.
        shared: bytes of shared memory for each program.
        watched: whether a race raises.
        first: how many programs of the grid ran before.
        counts: where to add what is issued and moved.
    """

    def __init__(
        self,
        program: Program,
        arguments: dict[str, Lanes],
        programs: NDArray,
        grid: tuple[int, int, int],
        memory: Memory,
        shared: int,
        watched: bool = True,
        first: int = 0,
        counts: Counts | None = None,
    ) -> None:
        self.program, self.arguments, self.memory = program, arguments, memory
        self.width, self.size = program.lanes, program.lanes * len(programs)
        self.number = np.repeat(np.arange(len(programs)), self.width)
        self.stretch, self.first = np.zeros(len(programs), np.int64), first
        self.room = -(-shared // 128) * 128
        data = np.full(self.room * len(programs), GARBAGE, np.uint8)
        watch = Watch(data.size, strict=True) if watched else None
        self.shared = Memory("shared", [Region(0, data, watch)])
        self.limit = shared
        self.registers = _special(program.lanes, programs, grid)
        self.mask: NDArray | None = None  # which lanes run: None is all
        self.alive = np.ones(self.size, bool)
        self.copies: list[list[Callable[[], None]]] = [[]]
        self.counts = counts

    def active(self) -> NDArray:
        """Which lanes run."""
        return np.ones(self.size, bool) if self.mask is None else self.mask

    def guarded(self, instruction: Instruction) -> NDArray | None:
        """Which lanes run this instruction."""
        if instruction.guard is None:
            return self.mask
        wanted, name = instruction.guard
        held = self.registers[name]
        held = np.broadcast_to(held if wanted else ~held, self.size)
        return held if self.mask is None else held & self.mask

    def value(self, operand: Operand, kind: str) -> Lanes:
        """An operand's numbers: of all lanes, or one for all of them."""
        if operand in self.registers:
            return read(self.registers[operand], kind)
        if isinstance(operand, str) and (operand[0] == "%" or operand in self.program.registers):
            held = register(self.program.kind(operand))
            return read(np.full(1, GARBAGE, np.uint8).astype(held), kind)
        if isinstance(operand, str) and operand[0] not in "-0123456789":
            return np.array([self.symbol(operand)], TYPES[kind])
        return np.array([constant(operand, kind)])

    def symbol(self, name: str) -> int:
        """Where a parameter is, or shared memory: that begins at zero."""
        return PARAMETER * list(self.arguments).index(name) if name in self.arguments else 0

    def argument(self, address: Address) -> Lanes:
        """A parameter's bits: by its name, or by where one chosen among several is."""
        if address.base in self.arguments:
            return self.arguments[address.base]
        given, at = list(self.arguments.values()), self.whole(address.base, "u32")
        made = np.zeros(self.size, np.uint64)
        for place in np.unique(at):
            made[at == place] = given[int(place) // PARAMETER]
        return made

    def put(self, operand: Operand, numbers: Lanes, kind: str, mask: NDArray | None) -> None:
        """Write numbers into a register, of the lanes that run."""
        if operand == "_":
            return
        bits = write(np.atleast_1d(numbers), kind, register(self.program.kind(operand)))
        if mask is not None:
            before = self.registers.get(operand, np.full(1, GARBAGE, np.uint8).astype(bits.dtype))
            bits = np.where(mask, bits, before)
        self.registers[operand] = bits

    def whole(self, operand: Operand, kind: str) -> Lanes:
        """An operand's numbers, one for each lane."""
        return np.broadcast_to(self.value(operand, kind), self.size)

    def lanes(self, mask: NDArray | None) -> NDArray:
        """The numbers of these lanes."""
        return np.arange(self.size) if mask is None else np.flatnonzero(mask)

    def together(self, instruction: Instruction, mask: NDArray | None) -> NDArray:
        """The numbers of these lanes, who are whole warps."""
        if mask is not None:
            here = mask.reshape(-1, WARP)
            if np.any(here.any(1) != here.all(1)):
                raise RuntimeError(f"{instruction}: a part of a warp")
        return self.lanes(mask)

    def who(self, lanes: NDArray) -> Who:
        """These lanes as memory knows them."""
        here = self.number[lanes]
        program = self.first + here
        warp = lanes // WARP + self.first * self.width // WARP
        return Who(warp, program, program * BARRIERS + self.stretch[here])

    def place(self, address: Address, space: Memory, lanes: NDArray, size: int) -> Lanes:
        """Where these lanes' address is; a program's shared memory is a part of what there is."""
        at = np.broadcast_to(self.value(address.base, "u64"), self.size)[lanes].astype(np.int64)
        at = at + address.offset
        return self.inside(at, lanes, size) if space is self.shared else at

    def inside(self, at: NDArray, lanes: NDArray, size: int) -> NDArray:
        """An address of a program's shared memory among that of all programs."""
        if np.any((at < 0) | (at + size > self.limit)):
            raise FaultError(f"shared memory has {self.limit} bytes, none at {at.max()}")
        return self.number[lanes] * self.room + at


def _special(width: int, programs: NDArray, grid: tuple[int, int, int]) -> dict[str, Lanes]:
    """Registers that say which lane this is, of which program."""
    lane = np.tile(np.arange(width, dtype=np.uint32), len(programs))
    made = {"%laneid": lane % 32, "%warpid": lane // 32, "%tid.x": lane}
    for axis, name in enumerate("xyz"):
        made[f"%ctaid.{name}"] = np.repeat(programs[:, axis].astype(np.uint32), width)
        made[f"%nctaid.{name}"] = np.array([grid[axis]], np.uint32)
        made[f"%ntid.{name}"] = np.array([width if axis == 0 else 1], np.uint32)
        made.setdefault(f"%tid.{name}", np.zeros(1, np.uint32))
    return made
