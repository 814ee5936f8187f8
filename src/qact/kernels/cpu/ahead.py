"""Kernels lowered ahead of time: Numba's part of a cold start, done where a wheel is built.

Three quarters of the seconds that a kernel takes to compile are Numba's way from Python to LLVM's
language, which is the same on every processor; LLVM's own, which must know the processor, are a
quarter. `qact.kernels.cpu.lower` writes down what lies between them, in the folder `lowered` of
this package. It is used if it is of these sources, this Numba and this platform; Numba does all of
it otherwise, as after an edit in a clone. What either way gives is the same code, to the bit.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import lzma
import os
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core import config as _config
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys

from qact.kernels.cpu.lanes import KIND, KINDS

config: Any = _config  # its names are made when it is imported
HERE = Path(__file__).resolve().parent
FOLDER = HERE / "lowered"


class Loaded:
    """A kernel's machine code in an engine of its own."""

    def __init__(self, code: bytes, entry: str) -> None:
        machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
        own = config.USE_LLVMLITE_MEMORY_MANAGER
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine, use_lmm=own)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        self.address = self._engine.get_function_address(entry)
        self.ctypes = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.address)


def name_of(function: Any) -> str:
    """The name of a kernel's file."""
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__.strip('_')}"


def files_of(name: str, kind: str | None = KIND) -> list[str]:
    """Where a kernel may be that a processor of a kind can run; the last that is there is best."""
    known = [*KINDS]
    kinds = known[: known.index(kind) + 1] if kind in known else []
    return [name, *(f"{name}.{one}" for one in kinds)]


@global_compiler_lock
def load(function: Any, kept: Path, folder: Path = FOLDER) -> Loaded | None:
    """The kernel of a function if it was lowered ahead; its machine code is ``kept`` on disk."""
    kernels, name = _contents(folder), name_of(function)
    found = [file for file in files_of(name) if file in kernels]
    if not found:
        return None
    file, entry = found[-1], kernels[found[-1]]
    rtsys.initialize(cpu_target.target_context)  # or memory is asked for at address zero
    codegen = cpu_target.target_context.codegen()
    options = config.OPT, config.LOOP_VECTORIZE, config.SLP_VECTORIZE
    what = (entry, sources(), versions(), codegen.magic_tuple(), *map(str, options))
    key = hashlib.sha256(repr(what).encode()).hexdigest()[:24]
    path = kept / f"{name}-{key}.o"
    with suppress(OSError):
        return Loaded(path.read_bytes(), entry)
    library = codegen.create_library(name)
    try:
        text = lzma.decompress((folder / f"{file}.ll.xz").read_bytes()).decode()
    except (OSError, lzma.LZMAError):  # it was there a moment ago; or damaged
        return None
    library._final_module = llvm.parse_assembly(text)
    library._optimize_final_module()
    if unknown(library._final_module):
        return None
    code = codegen._tm.emit_object(library._final_module)
    with suppress(OSError):  # where nothing can be kept, it is made in every process
        kept.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")  # of this process alone, under the lock
        aside.write_bytes(code)
        os.replace(aside, path)
    return Loaded(code, entry)


def unknown(module: Any) -> list[str]:
    """Functions that nothing in this process defines: their calls would lead nowhere."""
    called = (one.name for one in module.functions if one.is_declaration)
    return [n for n in called if not n.startswith("llvm.") and not llvm.address_of_symbol(n)]


@cache
def _contents(folder: Path) -> dict[str, str]:
    """The kernels in a folder and where they are entered; none if it is another version's."""
    try:
        told = json.loads((folder / "contents.json").read_text())
    except (OSError, ValueError):
        return {}
    fits = told["sources"] == sources() and told["versions"] == versions()
    return told["kernels"] if fits else {}


def versions() -> list[str]:
    """What lowers, and for which platform."""
    return [numba.__version__, llvm.get_process_triple()]


@cache
def sources() -> str:
    """A digest of all that kernels are made of: this package, and what it imports of others."""
    digest = hashlib.sha256()
    for path in files():
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def files() -> list[Path]:
    """The sources of :func:`sources`."""
    found = set(HERE.glob("*.py"))
    for path in HERE.glob("*.py"):
        told = path.read_text(encoding="utf-8")
        for name in re.findall(r"^from qact\.([\w.]+) import", told, re.MULTILINE):
            found.add((HERE.parents[1] / name.replace(".", "/")).with_suffix(".py"))
    return sorted(path for path in found if path.exists())
