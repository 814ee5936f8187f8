"""Shared by the whole suite: a seed before every test, and repeatable property tests."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

settings.register_profile("qact", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("qact")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
