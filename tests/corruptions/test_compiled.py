"""What Numba compiles gives the bits of what torch does, corruption by corruption."""

import io

import numpy as np
import pytest
import torch

from qact.corruptions import random as random_module
from qact.corruptions.augment import augment
from qact.corruptions.constants import constants
from qact.corruptions.random import Draws
from qact.corruptions.registry import GROUPS
from qact.corruptions.spatter import distance
from qact.shift import corrupt, corrupt_mnist, corruptions

pytest.importorskip("numba")
X = torch.rand(5, 3, 21, 24, generator=torch.Generator().manual_seed(0))


def test_every_room_is_found():
    """An error while a room is imported would pass for a missing Numba, and only cost time."""
    from qact.corruptions.compiled import twins

    rooms = ("levels", "random", "linear", "motion", "gather", "affine", "plasma", "spatter")
    assert all(random_module.on_cpu(X, room) for room in (*rooms, "augmix", "twins"))
    plain = {name for name in corruptions("all") if GROUPS["all"][name] not in twins.TWINS}
    assert plain == {"glass_blur", "zoom_blur", "snow", "frost"}


@pytest.fixture
def both(monkeypatch):
    def run(work):
        compiled = work()
        with monkeypatch.context() as plain:
            plain.setattr(random_module, "_compiled", lambda room: None)
            return compiled, work()

    return run


@pytest.mark.parametrize("name", corruptions("all"))
def test_corruptions(name, both):
    for severity in (1, 5):
        one, two = both(lambda severity=severity: corrupt(X, name, severity, seed=2))
        assert torch.equal(one, two)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (9, 33), (64, 18)])
@pytest.mark.parametrize("name", corruptions("all"))
def test_corruptions_of_any_size(name, size, both):
    x = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(1))
    for images in (x, x[:, :1]):
        one, two = both(lambda images=images: corrupt(images, name, 4, seed=3))
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", corruptions("mnist"))
def test_mnist_c(name, both):
    one, two = both(lambda: corrupt_mnist(X[:2, :1], name))
    assert torch.equal(one, two)


def test_draws_and_augmentation(both):
    index = torch.tensor([3, -1, 2**40])
    for work in (
        lambda: Draws(1, "a", index).bits(7),
        lambda: Draws(1, "a", index).uniform(7, low=-2.0, high=0.3),
        lambda: Draws(1, "a", index).normal(300),
        lambda: Draws(1, "a", index).poisson(torch.arange(256).expand(3, 256), 60.0),
        lambda: augment(X, "crop_flip_augmix", seed=1),
        lambda: augment((X * 255).byte()[:, :1], "augmix", seed=2),
    ):
        one, two = both(work)
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["elastic_transform", "pixelate", "motion_blur", "fog"])
def test_every_kind_of_input(name, both):
    for x in (X.half(), X.double(), X.to(memory_format=torch.channels_last), X[:, :, ::2]):
        one, two = both(lambda x=x: corrupt(x, name, 4))
        assert torch.equal(one, two)
        assert one.dtype == x.dtype


@pytest.mark.parametrize("name", corruptions("all"))
def test_chunks_leave_no_trace(name, monkeypatch):
    whole = corrupt(X, name, 3, seed=1)
    monkeypatch.setattr("qact.corruptions.compiled.levels._CHUNK", 2 * X[0].numel())
    assert torch.equal(corrupt(X, name, 3, seed=1), whole)


def test_distances_are_roots_rounded_once():
    edge = torch.zeros(3, 19, 25, dtype=torch.bool)
    edge[0, 0, 0] = edge[1, 9, 12] = edge[2, 18, 3] = True
    rows, columns = np.mgrid[:19, :25]
    for one, (row, column) in zip(distance(edge), ((0, 0), (9, 12), (18, 3)), strict=True):
        square = np.minimum((rows - row) ** 2 + (columns - column) ** 2, 400)
        assert np.array_equal(one.numpy(), np.sqrt(square.astype(np.float32)))


def test_blocks_coded_eight_at_a_time_equal_pillow():
    image = pytest.importorskip("PIL.Image")
    x = torch.randint(0, 256, (2, 3, 23, 50), generator=torch.Generator().manual_seed(0)) / 255
    for severity in range(1, 6):
        ours = (corrupt(x, "jpeg_compression", severity) * 255).round().byte()
        for before, after in zip(x, ours, strict=True):
            file = io.BytesIO()
            levels = (before * 255).round().byte().permute(1, 2, 0).numpy()
            quality = constants("jpeg_compression", severity, 23)
            image.fromarray(levels).save(file, "JPEG", quality=quality)
            theirs = np.asarray(image.open(file))
            assert np.array_equal(after.permute(1, 2, 0).numpy(), theirs)
