from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # the helpers of the tests of clusters


@pytest.fixture
def marks(tmp_path, monkeypatch):
    """Where workers leave a mark before they die; they see the tests' helpers."""
    folder = tmp_path / "marks"
    folder.mkdir()
    monkeypatch.setenv("QACT_MARKS", str(folder))
    return folder


@pytest.fixture
def rivals(monkeypatch):
    """The rival of ``cluster_rivals`` for one test only."""
    from qact.activations.registry import ACTIVATIONS

    ACTIVATIONS.names()
    others = {name: entry for name, entry in ACTIVATIONS._entries.items() if name != "once"}
    monkeypatch.setattr(ACTIVATIONS, "_entries", others)
    monkeypatch.delitem(sys.modules, "cluster_rivals", raising=False)
