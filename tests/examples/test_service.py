"""The served model over loopback: quiet on clear images, alarmed and adapted in fog."""

from __future__ import annotations

import importlib.util
import sys
import urllib.error
from pathlib import Path

import pytest
import torch

for needed in ("timm", "fastapi", "uvicorn", "pyarrow", "duckdb"):
    pytest.importorskip(needed)

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from torchvision_schemas import import_torchvision  # noqa: E402


@pytest.fixture(scope="module")
def example():
    import_torchvision()
    spec = importlib.util.spec_from_file_location("service", ROOT / "examples" / "service.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_fog_raises_the_alarm_and_is_adapted_to(example, tmp_path):
    clear, fog = example.main(["--out", str(tmp_path)])
    assert (clear["alarm"], clear["action"]) == (False, "source")
    assert fog["alarm"]
    assert fog["action"] in ("batch", "safe")
    assert fog["windows"] == 2 * clear["windows"] == 10
    assert clear["last"] > fog["last"] > fog["first"] + 0.05
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "digits-1" in page


def test_what_is_no_image_is_refused_and_the_next_is_served(example, tmp_path):
    from qact.monitor import record

    model = example.trained(torch.rand(100, 1, 32, 32), torch.arange(100) % 10, 1)
    app = example.service(model, record(model, torch.rand(64, 1, 32, 32)), tmp_path)
    with example.serving(app) as url:
        for wrong in (torch.rand(2, 3), torch.rand(2, 5, 32, 32)):
            with pytest.raises(urllib.error.HTTPError, match="422"):
                example.ask(f"{url}/predict", wrong)
        assert len(example.ask(f"{url}/predict", torch.rand(3, 1, 32, 32))["labels"]) == 3
        assert example.ask(f"{url}/status")["windows"] == 0
