"""What a thread lends to a model is its own: other threads read what they read without it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qact
from qact.surgery.lending import lending, lent

X = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(5)) * 2 + 1


class Paused(nn.BatchNorm2d):
    """In the thread that has set it, ``pause`` is called while this norm is at work."""

    pause: Any = None

    def forward(self, input: Tensor) -> Tensor:
        if self.pause is not None and self.pause[0] is threading.current_thread():
            self.pause[1]()
        return super().forward(input)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), Paused(4), qact.QAct(4), nn.Conv2d(4, 4, 3), qact.NormedQAct(4)),
        *(nn.Flatten(), nn.Linear(16, 5)),
    )
    for _ in range(5):
        model(torch.randn(32, 3, 6, 6))
    return qact.record(model.eval(), [torch.randn(64, 3, 6, 6)])


BLOCKS: dict[str, Callable[[nn.Module], Any]] = {
    "batch": lambda model: qact.adapting(model, "batch"),
    "mixed": lambda model: qact.adapting(model, "mixed", prior=4.0),
    "recalibrated": lambda model: qact.recalibrated(model, "batch"),
}


@contextmanager
def elsewhere(work: Callable[[], None]) -> Iterator[threading.Event]:
    """``work`` in another thread, which goes on when the event is set."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield thread
    thread.join(900)
    assert not errors, errors


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_changes_nothing_in_another_thread(name):
    model = network()
    with torch.no_grad():
        plain = model(X)
        with BLOCKS[name](model):
            inside = model(X)
        assert not torch.allclose(plain, inside, atol=1e-3)
    opened, asked, found = threading.Event(), threading.Event(), []

    def other() -> None:
        assert opened.wait(900)
        with torch.no_grad():
            found.append(model(X))
        asked.set()

    with elsewhere(other), torch.no_grad(), BLOCKS[name](model):
        first = model(X)
        opened.set()
        assert asked.wait(900)
        again = model(X)
    assert torch.equal(found[0], plain)
    assert torch.equal(first, inside)
    assert torch.equal(again, inside)


def test_a_norm_that_is_at_work_in_one_thread_lends_nothing_to_another():
    """The other thread passes while the statistics of the batch are in use in this one."""
    model = network()
    with torch.no_grad():
        plain = model(X)
        with qact.adapting(model):
            inside = model(X)
    at_work, asked, found = threading.Event(), threading.Event(), []

    def other() -> None:
        assert at_work.wait(900)
        with torch.no_grad():
            found.append(model(X))
        found.append({k: v.clone() for k, v in model.state_dict().items()})
        asked.set()

    before = {k: v.clone() for k, v in model.state_dict().items()}
    model[1].pause = threading.current_thread(), lambda: (at_work.set(), asked.wait(900))
    with elsewhere(other), torch.no_grad(), qact.adapting(model):
        assert torch.equal(model(X), inside)
    assert torch.equal(found[0], plain)
    assert all(torch.equal(v, before[k]) for k, v in found[1].items())


def test_blocks_of_several_threads_overlap_in_any_order():
    model = network()
    with torch.no_grad():
        want = {}
        for name, block in BLOCKS.items():
            with block(model):
                want[name] = model(X)
    keys = {name: sorted(module.__dict__) for name, module in model.named_modules()}
    step = threading.Barrier(3, timeout=900)

    def work(name: str, rounds: int) -> None:
        for turn in range(5):
            with torch.no_grad(), BLOCKS[name](model):
                step.wait()
                assert torch.equal(model(X), want[name])
                if turn < rounds:
                    assert torch.equal(model(X), want[name])
            step.wait()

    with elsewhere(lambda: work("batch", 0)), elsewhere(lambda: work("mixed", 5)):
        work("recalibrated", 2)
    assert {name: sorted(module.__dict__) for name, module in model.named_modules()} == keys


def test_blocks_end_in_any_order():
    layer = nn.ReLU()
    first, second = lending(layer, "_x", 1), lending(layer, "_x", 2)
    first.__enter__(), second.__enter__()
    first.__exit__(None, None, None)
    assert lent(layer, "_x") == 2
    second.__exit__(None, None, None)
    assert "_x" not in vars(layer)


def test_a_forward_that_somebody_else_has_put_there_comes_back():
    norm = nn.BatchNorm1d(3).eval()
    calls = []

    def own(x: Tensor) -> Tensor:
        calls.append(len(x))
        return type(norm).forward(norm, x)

    norm.forward = own
    x = torch.randn(5, 3)
    with qact.adapting(norm, "running"):
        norm(x)
    norm(x)
    assert calls == [5, 5]
    assert norm.forward is own
    twin = copy.deepcopy(nn.BatchNorm1d(3).eval())
    with qact.adapting(twin):
        twin.forward = own  # put over ours, within the block
    assert twin.forward is own
