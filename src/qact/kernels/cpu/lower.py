"""What `qact.kernels.cpu.ahead` reads, written: ``python -m qact.kernels.cpu.lower [FOLDER]``.

Done where an installation or a wheel is built (`hatch_build.py`), in several processes. Torch need
not be there, and is not imported where it is: kernels use none of it, and a build would have to
download it.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from qact.kernels.cpu.ahead import FOLDER, files_of, name_of, sources, versions
from qact.kernels.cpu.lanes import KIND, KINDS

# What `qact.kernels.cpu.lanes` writes is of one kind of processor: it is lowered for each of them.
_VECTORS = "<16 x float>"
MODULES = ("block", "lookup", "simplex", "row_rank")
# Kernels that call the same functions are lowered by one process; all others by one more.
SHARES = (
    {"block.forward_kernel", "block.steps_kernel"},
    {"block.few_forward_kernel", "block.few_backward_kernel"},
    {"block.backward_kernel", "block.follow_kernel"},
)


def lower(folder: Path, kinds: list[str | None]) -> list[str]:
    """Lower all kernels into a folder, which appears whole, in the place of what was there.

    ``kinds`` of processors from the least on, or [None] for none of them: kernels of vectors are
    left out. Returns the files' names, without their ends.
    """
    kernels: dict[str, str] = {}
    names: list[str] = []  # which kernels; none: all
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lowered.", dir=folder.parent) as place:
        made = Path(place, "made")
        made.mkdir()
        for kind in kinds:
            shares = _by_processes(Path(place), kind, names)
            names = names or [name for share in shares for name in _special(share, kind)]
            for share in shares:
                kernels |= _moved(share, made, kind)
        _tell(made, kernels)
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)
    return sorted(kernels)


def _by_processes(place: Path, kind: str | None, names: list[str]) -> list[Path]:
    """The folders in which processes have lowered their shares, as a processor of a kind would."""
    features = {} if kind is None else {"NUMBA_CPU_FEATURES": KINDS[kind]}
    folders = [place / f"{kind}-{share}" for share in range(len(SHARES) + 1)]

    def run(share: int) -> None:
        command = [sys.executable, "-m", __spec__.name, str(folders[share]), "--share", str(share)]
        subprocess.run([*command, "--names", *names], env=os.environ | features, check=True)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(run, range(len(folders))))
    return folders


def _special(folder: Path, kind: str | None) -> list[str]:
    """The kernels in a folder that are of one kind of processor."""
    end = f".{kind}"
    return [file.removesuffix(end) for file in _told(folder) if file.endswith(end)]


def _moved(share: Path, folder: Path, kind: str | None) -> dict[str, str]:
    """Kernels moved from a folder into another, but those that a lesser kind has the same."""
    kernels = _told(share)
    for name in _special(share, kind):
        path = share / f"{name}.{kind}.ll.xz"
        lesser = (folder / f"{file}.ll.xz" for file in files_of(name, kind)[:-1])
        if any(one.exists() and one.read_bytes() == path.read_bytes() for one in lesser):
            del kernels[f"{name}.{kind}"]
    for file in kernels:
        (share / f"{file}.ll.xz").replace(folder / f"{file}.ll.xz")
    return kernels


def write(folder: Path, kernels: list[Any], kind: str | None = None) -> list[str]:
    """Lower kernels into a new folder.

    Returns those that use vectors, which are left out unless they are for processors of a ``kind``.
    """
    folder.mkdir(parents=True)
    entries, special = {}, []
    for kernel in kernels:
        file = name = name_of(kernel.function)
        text, entry = kernel.lowered()
        if _VECTORS in text:
            special.append(name)
            file = f"{name}.{kind}"
        if file == name or kind is not None:
            text, entries[file] = renamed(text, entry, name)
            (folder / f"{file}.ll.xz").write_bytes(lzma.compress(text.encode(), preset=9))
    _tell(folder, entries)
    return special


def _tell(folder: Path, kernels: dict[str, str]) -> None:
    """What a folder holds, and of what it was made."""
    told = {"sources": sources(), "versions": versions(), "kernels": dict(sorted(kernels.items()))}
    (folder / "contents.json").write_text(json.dumps(told, indent=1) + "\n")


def _told(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "contents.json").read_text())["kernels"]
    return found


def renamed(text: str, entry: str, name: str) -> tuple[str, str]:
    """The same names in every process, in the order of the text: Numba's count what it compiles.

    They begin with the kernel's, since a linker prefers what a process already has of a name.

    >>> renamed("define void @_Z1fB2v7() { call void @_Z1gB2v3() }", "_Z1fB2v7", "lookup")
    ('define void @qact.lookup.0() { call void @qact.lookup.1() }', 'qact.lookup.0')
    """
    names: dict[str, str] = {}

    def short(found: re.Match[str]) -> str:
        return "@" + names.setdefault(found[1], f"qact.{name}.{len(names)}")

    return re.sub(r"@((?:cfunc\.)?_Z[\w.$]+)", short, text), names[entry]


class _Torchless(MetaPathFinder, Loader):
    """Torch as names without anything behind them: imported by what surrounds the kernels."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        found = name.partition(".")[0] == "torch"
        return ModuleSpec(name, self, is_package=True) if found else None

    def create_module(self, spec: ModuleSpec) -> Any:
        return MagicMock(name=spec.name)

    def exec_module(self, module: Any) -> None:
        pass


def lower_share(folder: Path, share: int, names: list[str]) -> None:
    """What one process does: its share of the kernels, or of those that are named."""
    sys.meta_path.insert(0, _Torchless())
    for module in MODULES:
        import_module(f"qact.kernels.cpu.{module}")
    from qact.kernels.cpu.jit import KERNELS

    known = {name_of(kernel.function): kernel for kernel in KERNELS}
    mine = [*SHARES, known.keys() - set().union(*SHARES)][share]
    write(folder, [one for name, one in known.items() if name in mine & set(names or known)], KIND)


def main() -> None:
    """Lower every kernel of the CPU engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--all", action="store_true", help="for every kind of processor")
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--names", nargs="*", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.share is not None:
        lower_share(asked.folder, asked.share, asked.names)
        return
    found = lower(asked.folder, [*KINDS] if asked.all else [KIND])
    size = sum(path.stat().st_size for path in asked.folder.iterdir()) / 1e3
    print(f"{len(found)} kernels in {asked.folder}, {size:.0f} kB")


if __name__ == "__main__":
    main()
