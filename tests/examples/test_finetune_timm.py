"""The example of fine-tuning, on a part of the digits."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from torchvision_schemas import import_torchvision  # noqa: E402


@pytest.fixture(scope="module")
def example():
    import_torchvision()
    spec = importlib.util.spec_from_file_location(
        "finetune_timm", ROOT / "examples" / "finetune_timm.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_warm_start_is_closer_than_a_cold_one(example, capsys):
    example.main(["--epochs", "2", "--finetune", "1", "--limit", "300"])
    lines = capsys.readouterr().out.splitlines()
    assert [line[:12].strip() for line in lines] == ["start", "ReLU", "cold", "warm", "warm table"]
    off = {line[:12].strip(): float(line[12:].split()[0]) for line in lines[1:]}
    assert off["ReLU"] == 0
    assert off["warm"] < off["cold"]
    assert off["warm table"] < off["cold"]
