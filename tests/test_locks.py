"""Contexts and locks under several threads, and in a child process."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import sys
import threading

import pytest
import torch

from qact import Context
from qact.locks import Lock


def test_no_value_is_lost_when_threads_add_and_merge():
    context, more, values = Context(3), Context(3), torch.randn(4, 30, 10, 3)
    failed = []

    def add(mine: torch.Tensor) -> None:
        try:
            for batch in mine:
                context.add(batch)
                more.add(batch)
                context.rank(batch)
                context.quantile(0.5)
            context.merge(more)
            more.merge(context)
        except Exception as error:
            failed.append(error)

    for only_add in (True, False):
        if only_add:
            threads = [
                threading.Thread(target=lambda m=mine: [context.add(b) for b in m])
                for mine in values
            ]
        else:
            threads = [threading.Thread(target=add, args=(mine,)) for mine in values[:2, :5]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if only_add:
            want = Context(3).add(values.flatten(0, 2))
            assert torch.equal(context.count, want.count)
            assert torch.equal(context.mass, want.mass)
            assert int(context.batches) == 120
    assert not failed


def test_a_copy_has_a_lock_of_its_own():
    context = Context(2).add(torch.randn(9, 2))
    with context.alone:
        for other in (copy.deepcopy(context), pickle.loads(pickle.dumps(context))):
            thread = threading.Thread(target=other.add, args=(torch.randn(3, 2),))
            thread.start()
            thread.join(60)
            assert float(other.count[0]) == 12


@pytest.mark.skipif(sys.platform != "linux", reason="no fork")
def test_a_child_finds_open_what_another_thread_held():
    seen, held, done = [], threading.Event(), threading.Event()
    lock, context = Lock(lambda: seen.append("orphaned")), Context(2)

    def hold() -> None:
        with lock, context.alone:
            held.set()
            done.wait(60)

    def child(answers) -> None:
        torch.set_num_threads(1)  # a team of OpenMP's threads does not outlive a fork
        with lock:
            answers.put((seen, float(context.add(torch.ones(4, 2)).count[0])))

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    process = fork.Process(target=child, args=(answers,))
    process.start()
    done.set()
    thread.join()
    assert answers.get(timeout=60) == (["orphaned"], 4.0)
    process.join()
    assert not seen
    with lock:  # held by the thread that forks: it goes on holding
        lock.after_fork()
        assert not seen
