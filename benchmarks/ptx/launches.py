"""Triton's launches, run on this processor from what its compiler makes for a card."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import triton
from triton._utils import find_paths_if, get_iterable_path
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from ptx.counts import Counts
from ptx.flow import meetings
from ptx.machine import Machine
from ptx.memory import Memory, Region
from ptx.program import Program, parse
from ptx.races import Watch
from ptx.values import TYPES, Lanes

LANES = 1 << 15  # that run side by side: enough that NumPy's own time is small


@dataclass(frozen=True)
class Compiled:
    """What a launch would run, and the numbers it would be given."""

    kernel: Any
    values: list[Any]


@dataclass(frozen=True)
class Ran:
    """A launch: of which kernel, and what it issued and moved, where that was counted."""

    name: str
    counts: Counts | None


def compiled(function: Any, args: tuple, named: dict, capability: int) -> Compiled:
    """Compile what a launch with these arguments would run.

    Integers that are 1 become constants, and it is known which integers and addresses are multiples
    of 16: by Triton's own code.
    """
    target = GPUTarget("cuda", capability, 32)
    backend = make_backend(target)
    names = [p.name for p in function.params]
    options = {name: value for name, value in named.items() if name not in names}
    constants = {name: value for name, value in named.items() if name in names}
    bind = create_function_from_signature(function.signature, function.params, backend)
    bound, kinds, _ = bind(*args, **constants)
    values = list(bound.values())
    signature = {name: kind[0] for name, kind in zip(names, kinds, strict=True)}
    # Arguments may be tuples, so what is known of one stands at a path.
    types = [kind[0] for kind in kinds]
    paths = find_paths_if(types, lambda _, kind: kind == "constexpr")
    fixed = {path: get_iterable_path(values, path) for path in paths}
    said = ["" if kind[0] == "constexpr" else kind[1] for kind in kinds]
    paths = find_paths_if(said, lambda _, known: isinstance(known, str))
    known = {path: backend.parse_attr(get_iterable_path(said, path)) for path in paths}
    source = ASTSource(function, signature, fixed, known)
    kernel = triton.compile(source, target=target, options=options)
    paths = find_paths_if(types, lambda _, kind: kind != "constexpr")
    return Compiled(kernel, [get_iterable_path(values, path) for path in paths])


@contextmanager
def running(
    capability: int = 90, watched: bool = True, counting: bool = False
) -> Iterator[list[Ran]]:
    """Within the block, launches on CPU tensors run their PTX here; yields what has run.

    Args:
        capability: of the card that is compiled for, 80 or 90.
        watched: whether lanes that meet in memory without a barrier raise: see `ptx.races`.
        counting: whether it is counted what a launch issues and moves: see `ptx.counts`.
    """
    ran: list[Ran] = []

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **constants: Any) -> None:
        ran.append(Ran(self.__name__, Counts() if counting else None))
        it = compiled(self, args, constants, capability)
        launch(it, tuple(grid), watched, ran[-1].counts)

    before = JITFunction.run
    JITFunction.run = run
    try:
        yield ran
    finally:
        JITFunction.run = before


@lru_cache(maxsize=256)
def _parsed(text: str) -> Program:
    made = parse(text)
    made.meets = meetings(made)
    return made


def launch(
    it: Compiled, grid: tuple[int, ...], watched: bool = True, counts: Counts | None = None
) -> None:
    """Run all programs of a grid, some at a time."""
    text = it.kernel.asm["ptx"]
    program = _parsed(text)
    grid = (*grid, 1, 1)[:3]
    strict = "acq_rel" not in text  # programs that hand on to each other say so
    memory = Memory("global", _regions(it.values, strict if watched else None))
    arguments = _arguments(program, it.values)
    programs = np.stack(np.unravel_index(np.arange(np.prod(grid)), grid, order="F"), -1)
    shared, beside = it.kernel.metadata.shared, max(1, LANES // program.lanes)
    for first in range(0, len(programs), beside):
        some = programs[first : first + beside]
        Machine(program, arguments, some, grid, memory, shared, watched, first, counts).run()


def _arguments(program: Program, values: list[Any]) -> dict[str, Lanes]:
    """A kernel's parameters by name; the last two are pointers to room that ours do not need."""
    given = [*values, *[0] * (len(program.params) - len(values))]
    made = {}
    for (name, kind), value in zip(program.params, given, strict=True):
        number = value.data_ptr() if isinstance(value, torch.Tensor) else value
        bits = np.array([number]).astype(TYPES[kind])
        made[name] = bits.view(f"u{bits.dtype.itemsize}")
    return made


def _regions(values: list[Any], strict: bool | None) -> list[Region]:
    """The memory of all tensors among the arguments, once each; None: not watched."""
    storages = {}
    for tensor in values:
        if isinstance(tensor, torch.Tensor):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    made = []
    for begin, size in storages.items():
        held = (ctypes.c_uint8 * size).from_address(begin) if size else b""
        watch = None if strict is None else Watch(size, strict)
        made.append(Region(begin, np.frombuffer(held, np.uint8), watch))
    return made
