"""Kernels lowered ahead of time: the same code as Numba's own, or none at all."""

from __future__ import annotations

import importlib.util
import json
import lzma
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from qact import Context
from qact.kernels.cpu import ahead, lanes, lookup, lower
from qact.kernels.cpu.frame import cube, opened, pack
from qact.kernels.cpu.jit import Kernel
from qact.kernels.stored import store
from qact.rank import levels
from qact.rank.rule import Rule


@Kernel
def doubled(data):
    frame = opened(data)
    z, out = cube(frame, 0, np.float32), cube(frame, 1, np.float32)
    for i in range(z.shape[2]):
        out[0, 0, i] = 2 * z[0, 0, i]


def result(kernel):
    """What it makes of 0, 1, 2, ..."""
    z = torch.arange(5.0).view(1, 1, 5)
    out = torch.zeros_like(z)
    kernel.ctypes(pack([z, out], []).buffer_info()[0])
    return out.flatten().tolist()


@pytest.fixture
def folder(tmp_path):
    """A folder with the kernel above in it."""
    assert lower.write(tmp_path / "lowered", [doubled]) == []
    return tmp_path / "lowered"


def test_a_kernel_that_was_lowered_runs_and_its_machine_code_is_kept(folder, tmp_path):
    kept = tmp_path / "kept"
    assert result(ahead.load(doubled.function, kept, folder)) == [0, 2, 4, 6, 8]
    (code,) = kept.iterdir()
    assert code.name.startswith("test_ahead.doubled-")
    assert code.suffix == ".o"
    (folder / "test_ahead.doubled.ll.xz").unlink()  # nothing is compiled once more
    assert result(ahead.load(doubled.function, kept, folder)) == [0, 2, 4, 6, 8]


def test_lowering_once_more_gives_the_same_file(folder, tmp_path):
    assert doubled.lowered()[1] != doubled.lowered()[1]  # Numba counts what it has compiled
    lower.write(tmp_path / "again", [doubled])
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_where_nothing_can_be_kept_it_still_runs(folder, tmp_path):
    (tmp_path / "file").touch()
    loaded = ahead.load(doubled.function, tmp_path / "file" / "kept", folder)
    assert result(loaded) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("change", ["sources", "versions", "kernels", None])
def test_what_is_of_other_sources_or_another_numba_is_left_alone(folder, tmp_path, change):
    path = folder / "contents.json"
    told = json.loads(path.read_text())
    other = {"sources": "0" * 64, "versions": ["0.1", "vax"], "kernels": {}}
    path.write_text(json.dumps(told | {change: other[change]}) if change else "{")
    assert ahead.load(doubled.function, tmp_path, folder) is None


def test_what_calls_a_function_that_nothing_defines_is_left_alone(folder, tmp_path):
    path = folder / "test_ahead.doubled.ll.xz"
    text = lzma.decompress(path.read_bytes()).decode()
    text = text.replace("entry:\n", "entry:\n  call void @numba_of_old()\n", 1)
    text += "\ndeclare void @numba_of_old()\n"
    path.write_bytes(lzma.compress(text.encode()))
    assert ahead.load(doubled.function, tmp_path, folder) is None


ALLOCATING = """
import sys
from pathlib import Path
import numpy as np, torch
from qact.kernels.cpu import ahead
from qact.kernels.cpu.frame import cube, opened, pack
from qact.kernels.cpu.jit import Kernel

@Kernel
def reversed_(data):
    frame = opened(data)
    z, out = cube(frame, 0, np.float32), cube(frame, 1, np.float32)
    row = np.empty(z.shape[2], np.float32)
    for i in range(row.size):
        row[row.size - 1 - i] = z[0, 0, i]
    for i in range(row.size):
        out[0, 0, i] = row[i]

if __name__ == "__main__":
    loaded = ahead.load(reversed_.function, Path("kept"), Path("lowered"))
    z = torch.arange(4.0).view(1, 1, 4)
    out = torch.zeros_like(z)
    loaded.ctypes(pack([z, out], []).buffer_info()[0])
    print(out.flatten().tolist())
"""


def test_a_process_in_which_numba_has_compiled_nothing_can_ask_for_memory(tmp_path):
    (tmp_path / "allocating.py").write_text(ALLOCATING)
    spec = importlib.util.spec_from_file_location("allocating", tmp_path / "allocating.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.reversed_.function.__module__ = "__main__"
    lower.write(tmp_path / "lowered", [module.reversed_])
    command = [sys.executable, "allocating.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[3.0, 2.0, 1.0, 0.0]"


def test_without_a_folder_numba_compiles(tmp_path):
    assert ahead.load(doubled.function, tmp_path, tmp_path / "nothing") is None
    assert result(doubled.by_numba(doubled._made())) == [0, 2, 4, 6, 8]


VECTORS = """
import operator, sys
from pathlib import Path
import numpy as np
from qact.kernels.cpu import lanes, lower
from qact.kernels.cpu.frame import cube, opened
from qact.kernels.cpu.jit import KERNELS, Kernel, exact

@exact
def rounded(row, to):
    lanes.store(to, 0, lanes.permuted(lanes.load(row, 0), lanes.whole(lanes.load(row, 0))))

@Kernel
def permute(data):
    frame = opened(data)
    rounded(cube(frame, 0, np.float32)[0, 0], cube(frame, 1, np.float32)[0, 0])

if __name__ == "__main__":
    permute.function.__module__ = "vectors"
    lower.write(Path(sys.argv[1]), KERNELS, lanes.KIND)
"""


def lowered_for(kind, folder, monkeypatch):
    """What a processor of a kind would have written of a kernel of vectors, by name."""
    (folder / "vectors.py").write_text(VECTORS)
    monkeypatch.setenv("NUMBA_CPU_FEATURES", lanes.KINDS[kind])
    subprocess.run([sys.executable, "vectors.py", kind], cwd=folder, check=True)
    texts = {path.name: path.read_bytes() for path in (folder / kind).glob("*.xz")}
    return {name: lzma.decompress(text).decode() for name, text in texts.items()}


@pytest.mark.skipif(list(lanes.KINDS) != ["avx2", "avx512"], reason="of x86-64 alone")
def test_vectors_are_lowered_for_each_kind_of_processor_wherever_that_is(tmp_path, monkeypatch):
    ((file, text),) = lowered_for("avx2", tmp_path, monkeypatch).items()
    assert file == "vectors.permute.avx2.ll.xz"
    assert "@llvm.x86.avx2.permps" in text
    assert "avx512" not in text
    ((file, text),) = lowered_for("avx512", tmp_path, monkeypatch).items()
    assert file == "vectors.permute.avx512.ll.xz"
    assert "@llvm.x86.avx512.permvar" in text


def test_a_kernel_of_vectors_is_left_out_where_no_kind_is_named(tmp_path):
    text = "define <16 x float> @entry(<16 x float> %x) { ret <16 x float> %x }"
    special = SimpleNamespace(function=doubled.function, lowered=lambda: (text, "entry"))
    assert lower.write(tmp_path / "lowered", [special]) == ["test_ahead.doubled"]
    assert [path.name for path in (tmp_path / "lowered").iterdir()] == ["contents.json"]


@pytest.mark.skipif(lanes.KIND is None, reason="a processor without vectors")
def test_the_best_of_what_a_processor_can_run_is_taken(folder, tmp_path):
    told = json.loads((folder / "contents.json").read_text())
    told["kernels"][f"test_ahead.doubled.{lanes.KIND}"] = told["kernels"]["test_ahead.doubled"]
    (folder / "contents.json").write_text(json.dumps(told))
    path = folder / "test_ahead.doubled.ll.xz"
    path.replace(folder / f"test_ahead.doubled.{lanes.KIND}.ll.xz")
    assert result(ahead.load(doubled.function, tmp_path, folder)) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("damage", [None, b"", b"\xfd7zXZ of another time"])
def test_a_file_that_is_gone_or_damaged_is_as_if_it_had_not_been_lowered(folder, tmp_path, damage):
    path = folder / "test_ahead.doubled.ll.xz"
    path.unlink() if damage is None else path.write_bytes(damage)
    assert ahead.load(doubled.function, tmp_path, folder) is None


def test_every_source_of_the_kernels_counts():
    names = {path.name for path in ahead.files()}
    assert {path.name for path in ahead.HERE.glob("*.py")} <= names
    assert {"columns.py", "moving.py"} <= names  # constants that are compiled in


def test_both_ways_give_the_same_bits(tmp_path, monkeypatch):
    context = Context(3).add(torch.randn(64, 3))
    stored = store(context.histogram, levels.parse("steps"), Rule(smooth=False))
    z = torch.randn(40, 3, 7)
    kernel = lookup._step_single
    lower.write(tmp_path / "lowered", [kernel], lanes.KIND)
    found = []
    for compiled in (
        ahead.load(kernel.function, tmp_path, tmp_path / "lowered"),
        kernel.by_numba(kernel._made()),
    ):
        monkeypatch.setitem(kernel.__dict__, "compiled", compiled)
        found.append(lookup.lookup(z, stored))
    assert torch.equal(*found)
    assert found[0].unique().numel() > 50


def test_what_this_installation_has_is_all_of_its_sources_or_of_no_use():
    """A folder that an edit has left behind is not read: Numba compiles kernels as they are now."""
    has = {".".join(file.split(".")[:2]) for file in ahead._contents(ahead.FOLDER)}
    modules = [import_module(f"qact.kernels.cpu.{one}") for one in lower.MODULES]
    kernels = {one.function for m in modules for one in vars(m).values() if isinstance(one, Kernel)}
    assert not has or {ahead.name_of(function) for function in kernels} == has
