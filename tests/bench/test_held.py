from collections import deque
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from qact import adapt
from qact.bench.measure.cost import held


def test_each_storage_counts_once_wherever_it_hides():
    @dataclass
    class Item:
        x: torch.Tensor

    class Slotted:
        __slots__ = ("kept",)

    four = torch.zeros(4)
    slotted = Slotted()
    slotted.kept = torch.zeros(2, dtype=torch.float64)
    owner = {"queue": deque([Item(four), Item(four[1:])]), "again": four.view(2, 2), "s": slotted}
    assert held(owner) == 16 + 16
    assert held(lambda: four) == 16  # a closure keeps what it closes over


def test_globals_and_classes_are_not_ones_own():
    class Keeper:
        shared = torch.zeros(1000)

        def read(self):
            return torch  # and through its globals everything

    assert held(Keeper()) == 0
    assert held(Keeper().read) == 0


def test_gradients_and_optimisers_count():
    layer = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.Adam(layer.parameters())
    assert held(optimizer) == 12
    layer(torch.ones(2, 3)).sum().backward()
    assert held(layer) == 24
    optimizer.step()
    assert held(optimizer) == 24 + 24 + 4  # two moments, and the step's number


@pytest.mark.parametrize(("name", "least"), [("source", 2), ("cotta", 4)])
def test_a_method_holds_its_copies_of_the_model(name, least):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 4))
    method = adapt.create(name, model.eval())
    method(torch.randn(4, 1, 8, 8))
    size = sum(t.nbytes for t in model.state_dict().values())
    # So that a batch that raises can be undone, copies of all buffers that moved are kept, twice.
    undone = 2 * 3 * sum(t.nbytes for t in model.buffers())
    assert least * size <= held(method) < (least + 2) * size + undone


@pytest.mark.own_seed  # by which the second batch is of a class that has room
def test_samples_in_a_memory_count():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    method = adapt.create("safe", model.eval())
    method(torch.randn(2, 1, 8, 8))
    before = held(method)
    method(torch.randn(2, 1, 8, 8))
    assert held(method) - before >= 2 * 64 * 4
