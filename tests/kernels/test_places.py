"""Compiled code where no folder can be written: in one of the process, gone with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

from qact.kernels.cpu import places

# As where all files are read-only and the user has no home; whoever runs the tests may be root.
READ_ONLY = """
import os, sys
from numba.core import caching

def refuse(self, able=caching._CacheLocator.ensure_cache_path):
    if not isinstance(self, places.Passing):
        raise PermissionError(13, "Permission denied")
    able(self)

caching._CacheLocator.ensure_cache_path = refuse
from qact.kernels.cpu import places
import numba, torch
from qact.corruptions import compiled
from qact.kernels.cpu import passes, row_rank

assert row_rank.row_rank(torch.tensor([[3.0, 1.0, 3.0]])).tolist() == [[2.0, 0.5, 2.0]]
assert passes.__name__
child = os.fork() if hasattr(os, "fork") else 1
if child == 0:
    sys.exit()
if hasattr(os, "fork"):
    os.waitpid(child, 0)
assert os.listdir(places.folder())
print(places.folder())
"""


def test_kernels_are_compiled_where_nothing_can_be_written(tmp_path):
    (tmp_path / "read_only.py").write_text(READ_ONLY)
    environment = {
        k: v for k, v in os.environ.items() if k not in ("QACT_QUIET", "NUMBA_CACHE_DIR")
    }
    command = [sys.executable, str(tmp_path / "read_only.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert places.PREFIX in done.stdout
    assert not Path(done.stdout.strip()).exists()
    assert "NUMBA_CACHE_DIR" in done.stderr or not done.stderr  # lowered ahead: nothing to say


def test_functions_of_others_are_left_to_numba(tmp_path):
    assert (
        places.Passing.from_function(
            test_kernels_are_compiled_where_nothing_can_be_written, __file__
        )
        is None
    )


def test_memory_serves_where_not_even_a_temporary_folder_can_be_written(monkeypatch, tmp_path):
    asked = []

    def mkdtemp(prefix, dir=None):
        asked.append(dir)
        if dir is None:
            raise FileNotFoundError("no usable temporary directory")
        return str(tmp_path)

    monkeypatch.setattr(places.tempfile, "mkdtemp", mkdtemp)
    monkeypatch.setattr(places.atexit, "register", lambda *of: None)
    assert places.folder.__wrapped__() == str(tmp_path)
    assert asked == [None, "/dev/shm"]


def test_where_there_is_no_folder_at_all_numba_says_so(monkeypatch):
    def mkdtemp(**of):
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(places.tempfile, "mkdtemp", mkdtemp)
    places.folder.cache_clear()
    assert places.Passing.from_function(places._remove, places.__file__) is None
