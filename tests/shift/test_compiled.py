"""What Numba compiles gives the bits of what torch does, corruption by corruption."""

import pytest
import torch

from qact.shift import corrupt, corrupt_mnist, corruptions
from qact.shift import random as random_module
from qact.shift.augment import augment
from qact.shift.random import Draws

pytest.importorskip("numba")
X = torch.rand(5, 3, 21, 24, generator=torch.Generator().manual_seed(0))


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
    ):
        one, two = both(work)
        assert torch.equal(one, two)


def test_every_kind_of_input(both):
    for x in (X.half(), X.double(), X.to(memory_format=torch.channels_last), X[:, :, ::2]):
        one, two = both(lambda x=x: corrupt(x, "elastic_transform", 4))
        assert torch.equal(one, two)
