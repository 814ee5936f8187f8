"""Paths that have moved: each still imports, and is the thing that it was."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

import qact
from qact._aliases import MOVED

OPTIONAL = {
    "integrations.lightning": "lightning",
    "integrations.sklearn": "sklearn",
    "integrations.torchmetrics": "torchmetrics",
}


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_path_is_the_new_module(old, new):
    if new in OPTIONAL and find_spec(OPTIONAL[new]) is None:
        pytest.skip(f"{OPTIONAL[new]} is not installed")
    module, target = import_module(f"qact.{old}"), import_module(f"qact.{new}")
    public = [name for name in vars(target) if not name.startswith("_")]
    assert all(getattr(module, name) is getattr(target, name) for name in public)
    assert set(public) <= set(dir(module))


def test_old_statements():
    code = """
from qact.layer import QAct
from qact.convert import Summary, convert
from qact.shift.streams import stream
from qact.distributed import convert_sync_
from qact.bench.train import build, train_cell
from qact.bench.report import print_all, write_report
from qact.bench.recipe import Recipe, quick
from qact.bench.runner import run
from qact.cluster import in_pandas
import qact.shift.data as data
import qact
assert qact.QAct is QAct and qact.convert is convert and data.load is qact.shift.load
assert callable(qact.layer) and callable(qact.convert)
assert qact.convert_sync_ is convert_sync_
assert qact.cluster.in_pandas is in_pandas
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_resolves():
    names = [name for name in qact.__all__ if name != "lightning" or find_spec("lightning")]
    assert all(getattr(qact, name) is not None for name in names)
    assert set(qact.__all__) <= set(dir(qact))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        qact.nonsense  # noqa: B018
