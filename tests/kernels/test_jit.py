"""A compiled kernel: the process that compiles it computes what every later one does."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("numba")
from numba.core.registry import cpu_target

from qact.kernels.cpu.jit import announce

SMALL = """
import numpy as np
from numba import carray
from qact.kernels.cpu.jit import Kernel, jit

@jit
def total(values):
    found = 0.0
    for value in values:
        found += value
    return found

@Kernel
def kernel(data):
    values = carray(data, (5,), np.float64)
    values[4] = total(values[:4])
"""

GRADIENT = """
import hashlib, torch, qact
x = torch.randn(50, 8, 32, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
layer = qact.QAct(8)
layer(x).pow(3).sum().backward()
print(hashlib.sha256(x.grad.numpy().tobytes()).hexdigest())
"""


def fresh(folder: Path) -> ModuleType:
    path = folder / "small_kernel.py"
    path.write_text(SMALL)
    spec = importlib.util.spec_from_file_location("small_kernel", path)
    module = sys.modules["small_kernel"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_kernel_runs_the_code_on_disk_even_where_it_was_compiled(tmp_path):
    for _ in range(2):  # compiled and kept, then only read
        made = fresh(tmp_path).kernel.compiled
        assert made.cache_hits == 1
        values = np.array([1.0, 2.0, 3.0, 4.0, 0.0])
        made.ctypes(values.ctypes.data)
        assert values[4] == 10


def test_a_kernel_is_compiled_anew_when_what_it_calls_has_changed(tmp_path, monkeypatch):
    def compiled() -> bool:
        made = fresh(tmp_path).kernel._made()
        made.enable_caching()
        made.compile()
        return made.cache_hits == 0

    assert [compiled(), compiled()] == [True, False]
    monkeypatch.setattr("qact.kernels.cpu.ahead.sources", lambda: "of a later version")
    assert [compiled(), compiled()] == [True, False]


def test_a_kernel_is_linked_with_nothing_else_of_the_process(tmp_path):
    module = fresh(tmp_path)
    home = module.kernel.compiled._targetdescr.target_context
    assert home is not cpu_target.target_context
    assert home is not module.Kernel(module.kernel.function).compiled._targetdescr.target_context


@pytest.mark.parametrize(("quiet", "lines"), [("", 1), ("0", 1), ("1", 0)])
def test_compiling_is_said_once_and_where_it_is_kept(tmp_path, monkeypatch, capsys, quiet, lines):
    monkeypatch.setenv("QACT_QUIET", quiet)
    announce.cache_clear()
    module = fresh(tmp_path)
    assert module.kernel.compiled.cache_hits == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("qact: compiling CPU kernels") == said.err.count("\n") == lines
    assert str(tmp_path) in said.err or not lines
    assert fresh(tmp_path).kernel.compiled.cache_hits == 1  # only read: nothing to say
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_the_process_that_compiles_has_the_bits_of_later_ones(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def printed() -> str:
        command = [sys.executable, "-c", GRADIENT]
        done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
        return done.stdout

    assert printed() == printed()
