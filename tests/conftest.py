"""Shared by the whole suite: repeatable property tests, and other seeds on demand.

``make test-seeds OFFSET=3`` adds 3 to every seed, of the tests and of the package: a test that
fails then holds by luck. Right values that are tied to one seed are marked ``own_seed``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("qact", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("qact")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed-offset", type=int, default=0, help="add this to every seed")


def pytest_configure(config: pytest.Config) -> None:
    if offset := config.getoption("--seed-offset"):
        settings.register_profile("offset", settings.default, derandomize=False, database=None)
        settings.load_profile("offset")
        config.option.hypothesis_seed = offset
        shift_seeds(offset)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--seed-offset"):
        items[:] = [item for item in items if not item.get_closest_marker("own_seed")]


def shift_seeds(offset: int) -> None:
    """Add ``offset`` to the seeds of torch, of its generators and of numpy's."""
    seeded, drawing = torch.manual_seed, np.random.default_rng

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(seed + offset)

    torch.Generator = Generator
    torch.manual_seed = lambda seed: seeded(seed + offset)
    np.random.default_rng = lambda seed=None: drawing(
        seed + offset if isinstance(seed, int) else seed
    )
