"""A small classifier of three blobs, what it gives inside and outside, and the data of the fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qact.scores import Outputs, Reader

CENTRES = torch.tensor([[3.0, 0.0, 0, 0], [0.0, 3.0, 0, 0], [0.0, 0.0, 3, 0]])


def blobs(count, seed):
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    return CENTRES[y] + torch.randn(count, 4, generator=draw), y


@pytest.fixture(scope="session")
def model():
    """Trained for half a second; right in nine of ten cases, so that some are wrong."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))
    x, y = blobs(300, 0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="session")
def loader():
    x, y = blobs(600, 1)
    return list(zip(x.split(100), y.split(100), strict=True))


@pytest.fixture(scope="session")
def inside(model):
    return Reader(model)(blobs(400, 2))


@pytest.fixture(scope="session")
def outside(model):
    """Between all classes, and more alike than those."""
    draw = torch.Generator().manual_seed(3)
    return Reader(model)(0.3 * torch.randn(400, 4, generator=draw) + torch.tensor([1.0, 1, 1, 0]))


@pytest.fixture(scope="session")
def fitted(loader, model):
    data = Reader(model).gather(loader)
    assert isinstance(data, Outputs)
    return data
