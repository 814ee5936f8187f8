"""For tests and doctests alike: torchvision beside a CPU build of torch, Triton where it is."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

# torchmetrics, timm and Lightning import torchvision where it is installed.
sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
if find_spec("torchvision") is not None:
    from torchvision_schemas import import_torchvision

    import_torchvision()


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The same random numbers in every test and doctest, whatever ran before."""
    torch.manual_seed(0)


# Where Triton cannot be installed, its kernels have no doctests to collect.
collect_ignore_glob = [] if find_spec("triton") else ["src/qact/kernels/triton/*"]
