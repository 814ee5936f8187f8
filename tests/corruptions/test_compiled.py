"""What Numba compiles gives the bits of what torch does, corruption by corruption."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from qact.corruptions import random as random_module
from qact.corruptions.augment import augment
from qact.corruptions.spatter import distance
from qact.shift import corrupt

pytest.importorskip("numba")
X = torch.rand(5, 3, 21, 24, generator=torch.Generator().manual_seed(0))


def test_every_room_is_found():
    """An error while a room is imported would pass for a missing Numba, and only cost time."""
    rooms = ("motion", "augmix")
    assert all(random_module.on_cpu(X, room) for room in rooms)


def test_a_corruption_compiles_itself_alone(tmp_path):
    """In a fresh cache: what Numba keeps are the passes of the corruption that was asked for."""
    code = "import sys, torch; from qact.shift import corrupt; "
    code += "corrupt(torch.rand(2, 3, 8, 8), sys.argv[1], 3); print('numba' in sys.modules)"
    for name, kept in (("fog", []), ("snow", ["_motion"])):
        cache = tmp_path / name
        run = subprocess.run(
            [sys.executable, "-c", code, name],
            env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
            capture_output=True,
            text=True,
        )
        assert run.stdout.strip() == str(bool(kept)), run.stderr
        assert [p.name.split(".")[1].split("-")[0] for p in cache.rglob("*.nbi")] == kept


@pytest.fixture
def both(monkeypatch):
    def run(work):
        compiled = work()
        with monkeypatch.context() as plain:
            plain.setattr(random_module, "_compiled", lambda room: None)
            return compiled, work()

    return run


PASSES = ("motion_blur", "snow")


@pytest.mark.parametrize("name", PASSES)
def test_corruptions(name, both):
    for severity in (1, 5):
        one, two = both(lambda severity=severity: corrupt(X, name, severity, seed=2))
        assert torch.equal(one, two)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (9, 33), (64, 18)])
@pytest.mark.parametrize("name", PASSES)
def test_corruptions_of_any_size(name, size, both):
    x = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(1))
    for images in (x, x[:, :1]):
        one, two = both(lambda images=images: corrupt(images, name, 4, seed=3))
        assert torch.equal(one, two)


def test_augmentation(both):
    for work in (
        lambda: augment(X, "crop_flip_augmix", seed=1),
        lambda: augment((X * 255).byte()[:, :1], "augmix", seed=2),
    ):
        one, two = both(work)
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", PASSES)
def test_every_kind_of_input(name, both):
    for x in (X.half(), X.double(), X.to(memory_format=torch.channels_last), X[:, :, ::2]):
        one, two = both(lambda x=x: corrupt(x, name, 4))
        assert torch.equal(one, two)
        assert one.dtype == x.dtype


def test_distances_are_roots_rounded_once():
    edge = torch.zeros(3, 19, 25, dtype=torch.bool)
    edge[0, 0, 0] = edge[1, 9, 12] = edge[2, 18, 3] = True
    rows, columns = np.mgrid[:19, :25]
    for one, (row, column) in zip(distance(edge), ((0, 0), (9, 12), (18, 3)), strict=True):
        square = np.minimum((rows - row) ** 2 + (columns - column) ** 2, 400)
        assert np.array_equal(one.numpy(), np.sqrt(square.astype(np.float32)))
