"""What instructions do to lanes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ptx import arithmetic, warps
from ptx.memory import FaultError, Memory
from ptx.program import Instruction, Operand
from ptx.state import State
from ptx.values import TYPES, WIDTHS, convert, packed, read


def execute(m: State, it: Instruction) -> None:
    """One instruction that only computes or moves."""
    work = WORK.get(it.name, _arithmetic)
    work(m, it, m.guarded(it))


def _arithmetic(m: State, it: Instruction, mask: NDArray | None) -> None:
    function, kinds, out = arithmetic.function(it.name, it.modifiers)
    target, *given = it.operands
    numbers = [m.value(o, kind) for o, kind in zip(given, kinds, strict=True)]
    m.put(target, function(*numbers), out, mask)


def _move(m: State, it: Instruction, mask: NDArray | None) -> None:
    target, source = it.operands
    kind = it.modifiers[-1]
    if isinstance(source, tuple):  # the first is the lowest
        part = WIDTHS[kind] // len(source)
        joined = np.zeros(1, TYPES[kind])
        for place, name in enumerate(source):
            word = m.value(name, f"b{part}").astype(TYPES[kind])
            joined = joined | word << np.array(part * place, TYPES[kind])
        m.put(target, joined, kind, mask)
    elif isinstance(target, tuple):
        part, bits = WIDTHS[kind] // len(target), m.value(source, kind)
        for place, name in enumerate(target):
            m.put(name, bits >> np.array(part * place, bits.dtype), f"b{part}", mask)
    else:
        m.put(target, m.value(source, kind), kind, mask)


def _convert(m: State, it: Instruction, mask: NDArray | None) -> None:
    *how, to, of = it.modifiers
    if to.endswith("x2"):
        target, *both = it.operands
        m.put(target, packed(*[m.value(o, of) for o in both], to.removesuffix("x2")), "b32", mask)
        return
    m.put(it.operands[0], convert(m.value(it.operands[1], of), to, of, tuple(how)), to, mask)


def _parts(operand: Operand) -> tuple[str, ...]:
    return operand if isinstance(operand, tuple) else (operand,)


def _space(m: State, it: Instruction) -> Memory:
    return m.shared if any(word.startswith("shared") for word in it.modifiers) else m.memory


def _touch(
    m: State, space: Memory, lanes: NDArray, at: NDArray, size: int, atomic: bool = False
) -> None:
    """Check that addresses are multiples of what is moved, and count them."""
    if np.any(at % size):
        wrong = at[at % size > 0][0]
        raise FaultError(f"address {wrong:#x} is no multiple of the {size} bytes moved")
    if m.counts is None or lanes.size == 0:
        return
    if space is m.shared:
        m.counts.shared_memory(lanes // warps.WARP, at, size, atomic)
    else:
        m.counts.global_memory(lanes // warps.WARP, at, size)


def _load(m: State, it: Instruction, mask: NDArray | None) -> None:
    target, address = it.operands
    kind = it.modifiers[-1]
    if "param" in it.modifiers:
        m.put(target, read(m.argument(address), kind), kind, mask)
        return
    space, lanes, size = _space(m, it), m.lanes(mask), WIDTHS[kind] // 8
    names = _parts(target)
    at = m.place(address, space, lanes, size * len(names))
    _touch(m, space, lanes, at, size * len(names))
    for number, name in enumerate(names):
        made = np.zeros(m.size, f"u{size}")
        made[lanes] = space.gather(at + number * size, size, m.who(lanes))
        m.put(name, made.view(TYPES[kind]), kind, mask)


def _store(m: State, it: Instruction, mask: NDArray | None) -> None:
    address, source = it.operands
    kind = it.modifiers[-1]
    space, lanes, size = _space(m, it), m.lanes(mask), WIDTHS[kind] // 8
    names = _parts(source)
    at = m.place(address, space, lanes, size * len(names))
    _touch(m, space, lanes, at, size * len(names))
    for number, name in enumerate(names):
        space.scatter(at + number * size, m.whole(name, f"b{8 * size}")[lanes], m.who(lanes))


def _atomic(m: State, it: Instruction, mask: NDArray | None) -> None:
    if "add" not in it.modifiers:
        raise NotImplementedError(f"no PTX instruction {it} here")
    *target, address, source = it.operands
    kind = it.modifiers[-1]
    space, lanes = _space(m, it), m.lanes(mask)
    at = m.place(address, space, lanes, WIDTHS[kind] // 8)
    _touch(m, space, lanes, at, WIDTHS[kind] // 8, atomic=True)
    made = np.zeros(m.size, f"u{WIDTHS[kind] // 8}")
    made[lanes] = space.add(at, m.whole(source, kind)[lanes], m.who(lanes))
    if target:
        m.put(target[0], made.view(TYPES[kind]), kind, mask)


def _copy(m: State, it: Instruction, mask: NDArray | None) -> None:
    """``cp.async``: what is copied arrives when its group, or one behind it, is waited for."""
    if "commit_group" in it.modifiers:
        m.copies.append([])
        return
    if "wait_group" in it.modifiers or "wait_all" in it.modifiers:
        left = int(it.operands[0]) if it.operands else 0
        while len(m.copies) - 1 > left:
            for arrive in m.copies.pop(0):
                arrive()
        return
    to, address, size = it.operands[0], it.operands[1], int(it.operands[2], 0)
    lanes = m.lanes(mask)
    # Of so many bytes; what is left of the target is zero.
    given = m.whole(it.operands[3] if len(it.operands) > 3 else str(size), "u32")[lanes]
    target, source = m.place(to, m.shared, lanes, size), m.place(address, m.memory, lanes, 1)
    who = m.who(lanes)
    _touch(m, m.shared, lanes, target, size)
    _touch(m, m.memory, lanes[given > 0], source[given > 0], size)

    def arrive() -> None:
        for byte in range(size):
            got, moved = given > byte, np.zeros(lanes.size, np.uint8)
            moved[got] = m.memory.gather(source[got] + byte, 1, who[got])
            m.shared.scatter(target + byte, moved, who)

    m.copies[-1].append(arrive)


def _shuffle(m: State, it: Instruction, mask: NDArray | None) -> None:
    target, source, by, clamp, _ = it.operands
    numbers = warps.by_warp(m.value(source, "b32"), m.size)
    given = [warps.by_warp(m.value(operand, "u32"), m.size) for operand in (by, clamp)]
    lane = warps.sources(it.modifiers[1], *given)
    if mask is not None:
        here = mask.reshape(-1, warps.WARP)
        if np.any(here & ~np.take_along_axis(here, lane, 1)):
            raise RuntimeError(f"{m.program.name}, {it}: reads a lane that does not run")
    m.put(target, np.take_along_axis(numbers, lane, 1).reshape(-1), "b32", mask)


def _reduce(m: State, it: Instruction, mask: NDArray | None) -> None:
    target, source, members = it.operands
    kind = it.modifiers[-1]
    chosen = warps.by_warp(m.value(members, "u32"), m.size) >> np.arange(32, dtype=np.uint32) & 1
    here = np.ones(m.size, bool) if mask is None else mask
    numbers = warps.by_warp(m.value(source, kind), m.size)
    made = warps.reduced(it.modifiers[1], numbers, chosen.astype(bool) & here.reshape(-1, 32))
    m.put(target, made.reshape(-1), kind, mask)


def _vote(m: State, it: Instruction, mask: NDArray | None) -> None:
    if "ballot" not in it.modifiers:
        raise NotImplementedError(f"no PTX instruction {it} here")
    here = np.ones(m.size, bool) if mask is None else mask
    chosen = warps.by_warp(m.whole(it.operands[1], "pred") & here, m.size)
    m.put(it.operands[0], warps.ballot(chosen), "b32", mask)


def _multiply(m: State, it: Instruction, mask: NDArray | None) -> None:
    if it.modifiers[2:] != ("m16n8k16", "row", "col", "f32", "f16", "f16", "f32"):
        raise NotImplementedError(f"no PTX instruction {it} here")
    out, a, b, c = it.operands
    m.together(it, mask)
    words = [[warps.by_warp(m.value(name, "b32"), m.size) for name in part] for part in (a, b)]
    summed = [warps.by_warp(m.value(name, "f32"), m.size) for name in c]
    for name, made in zip(out, warps.product(*words, summed), strict=True):
        m.put(name, made.reshape(-1), "f32", mask)


def _matrices(m: State, it: Instruction, mask: NDArray | None) -> None:
    """``ldmatrix`` and ``stmatrix``: eight rows of eight halves, handed out to a warp's lanes."""
    loads = it.name == "ldmatrix"
    names, address = it.operands if loads else it.operands[::-1]
    lanes, transposed = m.together(it, mask), "trans" in it.modifiers
    at = np.broadcast_to(m.value(address.base, "u64"), m.size).astype(np.int64) + address.offset
    at = at[lanes].reshape(-1, warps.WARP)
    for name, rows in zip(_parts(names), warps.rows_of(at, len(_parts(names))), strict=True):
        places = [warps.elements(rows, half, transposed).reshape(-1) for half in range(2)]
        inside = [m.inside(place, lanes, 2) for place in places]
        if loads:
            low, high = (m.shared.gather(place, 2, m.who(lanes)) for place in inside)
            made = np.zeros(m.size, np.uint32)
            made[lanes] = low.astype(np.uint32) | high.astype(np.uint32) << 16
            m.put(name, made, "b32", mask)
            continue
        word = m.whole(name, "b32")[lanes]
        for half, place in enumerate(inside):
            m.shared.scatter(place, (word >> (16 * half)).astype(np.uint16), m.who(lanes))


WORK: dict[str, Callable[[State, Instruction, NDArray | None], None]] = {
    "mov": _move,
    "cvt": _convert,
    "ld": _load,
    "st": _store,
    "atom": _atomic,
    "red": _atomic,
    "cp": _copy,
    "shfl": _shuffle,
    "redux": _reduce,
    "vote": _vote,
    "mma": _multiply,
    "ldmatrix": _matrices,
    "stmatrix": _matrices,
    "bar": lambda *_: None,
    "membar": lambda *_: None,
    "fence": lambda *_: None,
}
