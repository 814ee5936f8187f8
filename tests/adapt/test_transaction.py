"""Methods in several threads, in forked processes, and after errors halfway through a batch."""

from __future__ import annotations

import copy
import io
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

import qact
from qact import adapt

NAMES = adapt.methods()
X = 2 * torch.randn(9, 1, 6, 6, generator=torch.Generator().manual_seed(3)) + 1
OPTIONS = {
    "cotta": {"views": 2, "sure": 1.0, "lr": 0.1},
    "aqr": {"source": X},
    "eata": {"source": X, "margin": 9.0, "lr": 0.1},
    "sar": {"margin": 9.0, "lr": 0.1},
    "tent": {"lr": 0.1, "steps": 2},
    "rotta": {"every": 4, "lr": 0.1},
    "note": {"every": 4, "lr": 0.1},
    "safe": {"every": 4},
    "roid": {"lr": 0.1},
    "delta": {"lr": 0.1},
    "pseudo_label": {"lr": 0.1},
}


class Meeting(nn.Module):
    """Passes its input on; ``call`` is called at the ``at``-th pass after it was set."""

    def __init__(self) -> None:
        super().__init__()
        self.at, self.passes, self.call = 0, 0, lambda: None

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        if self.passes == self.at:
            self.call()
        return x


def network() -> nn.Sequential:
    """Norm and QAct, then the meeting, after everything has followed, then the head."""
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), qact.QAct(4)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    )
    for _ in range(5):
        model(torch.randn(32, 1, 6, 6))
    return model.eval()


def create(name: str, model: nn.Module | None = None) -> adapt.Method:
    return adapt.create(name, network() if model is None else model, **OPTIONS.get(name, {}))


def with_meeting(name: str) -> tuple[adapt.Method, Meeting]:
    """A method whose models all pass the same meeting, teachers too."""
    method, meeting = create(name), Meeting()
    for part in list(method.modules()):
        if isinstance(part, nn.Flatten):
            part.register_forward_hook(lambda module, args, output: meeting(output))
    return method, meeting


def state(method: adapt.Method) -> dict[str, Tensor]:
    found = {k: v for k, v in method.state_dict().items() if isinstance(v, Tensor)}
    return {k: v.detach().clone() for k, v in found.items()}


def key(logits: Tensor) -> bytes:
    return logits.contiguous().numpy().tobytes()


class HalfwayError(Exception):
    """Raised in the middle of a model."""


@pytest.mark.parametrize("name", NAMES)
def test_an_error_at_any_pass_leaves_the_method_as_it_was(name):
    def fail() -> None:
        raise HalfwayError

    failures = 0
    for at in range(1, 30):
        method, meeting = with_meeting(name)
        twin = create(name)
        method(X)
        assert torch.equal(method(X), [twin(X), twin(X)][1])
        before = state(method)
        meeting.passes, meeting.at, meeting.call = 0, at, fail
        try:
            method(3 * X.flip(0) + 1)
        except HalfwayError:
            failures += 1
        else:
            break
        assert state(method).keys() == before.keys()
        assert all(torch.equal(v, before[k]) for k, v in state(method).items())
        assert all(p.grad is None for p in method.parameters())
        meeting.at = 0
        for x in (X.flip(0), X):  # what is remembered of the stream is as it was, too
            assert torch.equal(method(x), twin(x)), at
    assert failures


def test_an_error_in_the_first_batch_and_in_an_episode():
    def fail() -> None:
        raise KeyboardInterrupt

    for name in ("tent", "safe"):
        method, meeting = with_meeting(name)
        meeting.at, meeting.call = 1, fail
        with pytest.raises(KeyboardInterrupt):
            method(X)
        assert torch.equal(method(X), create(name)(X))
    episodic = adapt.create("tent", network(), lr=0.1, episodic=True)
    episodic(X)
    before = state(episodic)
    with pytest.raises(RuntimeError):
        episodic(X[:, :, :2, :2])
    assert all(torch.equal(v, before[k]) for k, v in state(episodic).items())


def test_images_of_another_size_leave_no_trace_in_the_early_layers():
    """Norms and contexts take any size; the head, behind them, does not."""
    model = network()
    model[3] = nn.Identity()
    model[5] = nn.Linear(64, 3)
    for name in NAMES:
        if name == "aqr":
            continue
        method = create(name, model)
        method(X)
        before = state(method)
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            method(torch.randn(9, 1, 8, 8))
        assert all(torch.equal(v, before[k]) for k, v in state(method).items()), name


def test_what_cannot_be_copied_stays_and_what_a_user_gave_is_never_copied():
    class Mine(adapt.Method):
        """Keeps a list, and something that cannot be copied."""

        def begin(self) -> None:
            self.lock, self.seen = threading.Lock(), []

        def forward_and_adapt(self, x: Tensor) -> Tensor:
            self.seen.append(len(x))
            return super().forward_and_adapt(x)

    mine = adapt.create(Mine, network())
    mine(X)
    lock = mine.lock
    with pytest.raises(RuntimeError):
        mine(X[:, :, :2, :2])
    assert mine.lock is lock
    assert mine.seen == [9]

    class Views:
        calls = 0

        def __call__(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x

        def __deepcopy__(self, memo: dict) -> None:
            raise AssertionError("copied")

    views = Views()
    roid = adapt.create("roid", network(), augment=views)
    roid(X)
    with pytest.raises(RuntimeError):
        roid(X[:, :, :2, :2])
    assert roid.augment is views
    assert views.calls


@pytest.mark.parametrize("name", NAMES)
def test_threads_that_share_a_method_take_turns(name):
    """Equal batches have the same answers in any order: those of a single thread."""
    method, alone = create(name), create(name)
    want = Counter(key(alone(X)) for _ in range(12))
    start = threading.Barrier(4)

    def work(_: int) -> list[bytes]:
        start.wait()
        return [key(method(X)) for _ in range(3)]

    with ThreadPoolExecutor(4) as pool:
        found = Counter(answer for answers in pool.map(work, range(4)) for answer in answers)
    assert found == want
    assert torch.equal(method(X), alone(X))


def test_a_second_thread_waits_for_the_batch_of_the_first():
    method, meeting = with_meeting("tent")
    method(X)
    halfway, go_on, done = threading.Event(), threading.Event(), threading.Event()
    before = state(method)
    meeting.passes, meeting.at = 0, 2  # after the first of two steps
    meeting.call = lambda: (halfway.set(), go_on.wait(900))
    first = threading.Thread(target=method, args=(X,))
    first.start()
    assert halfway.wait(900)
    saved: list[dict] = []
    second = threading.Thread(target=lambda: (saved.append(state(method)), done.set()))
    second.start()
    assert not done.wait(0.2)  # half a batch is not to be seen
    go_on.set()
    for thread in (first, second):
        thread.join(900)
    twin = create("tent")
    twin(X), twin(X)
    assert all(torch.equal(v, saved[0][k]) for k, v in state(twin).items())
    assert any(not torch.equal(v, saved[0][k]) for k, v in before.items())


def test_copies_and_pickles_have_locks_of_their_own():
    method = create("tent")
    method(X)
    file = io.BytesIO()
    torch.save(create("source"), file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    for twin in (copy.deepcopy(method), other):
        assert twin.transactions.lock is not method.transactions.lock
        assert twin(X).shape == (9, 3)


def in_child(function) -> int:
    """The exit code of a forked child that runs ``function``; -1 if it hangs."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            torch.set_num_threads(1)
            code = 0 if function() else 2
        finally:
            os._exit(code)
    watchdog = threading.Timer(900, lambda: os.kill(pid, 9))
    watchdog.start()
    status = os.waitpid(pid, 0)[1]
    watchdog.cancel()
    return os.waitstatus_to_exitcode(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_method_works_in_a_forked_child_while_a_thread_of_the_parent_is_halfway(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the thread pools of torch do not survive a fork
    try:
        method, meeting = with_meeting("delta")
        twin = create("delta")
        method(X), twin(X)
        want = twin(X)
        assert in_child(lambda: torch.equal(method(X), want)) == 0
        halfway, go_on = threading.Event(), threading.Event()
        meeting.passes, meeting.at = 0, 1
        meeting.call = lambda: (halfway.set(), go_on.wait(900))
        busy = threading.Thread(target=method, args=(3 * X,))
        busy.start()
        assert halfway.wait(900)  # its statistics have moved, its lock is held
        assert in_child(lambda: torch.equal(method(X), want)) == 0
        go_on.set()
        busy.join(900)
    finally:
        torch.set_num_threads(threads)
