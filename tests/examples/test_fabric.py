"""The example for Lightning Fabric: two processes, one context."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "fabric.py"


@pytest.mark.slow
def test_two_processes_under_fabric():
    pytest.importorskip("lightning_fabric")
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert "on 2 processes, contexts agree: True" in done.stdout
