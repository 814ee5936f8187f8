"""Clusters: what an address may be, the loop that all engines share, processes of this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
from concurrent.futures import Future
from queue import SimpleQueue
from random import Random as Generator

import cluster_checks as checks
import pytest
from cluster_work import square
from hypothesis import given, settings
from hypothesis import strategies as st

from qact import cluster
from qact.extras import MissingExtraError
from qact.integrations.cluster.base import RETRIES, Remote, WorkerDiedError
from qact.integrations.cluster.local import deaf
from qact.integrations.cluster.task import Job, agree, versions


class Random(Remote):
    """Results come in any order, and workers die as often as ``deaths`` says of a task."""

    name = "random"

    def __init__(self, random, workers, deaths):
        self.random, self.workers, self.deaths = random, workers, deaths
        self.under_way, self.most_ahead = {}, 0

    def room(self):
        return self.workers

    def _inbox(self):
        return Waking(self)

    def _begin(self, job, heard, gpus):
        self.job, self.heard = job, heard

    def _submit(self, index, task):
        self.under_way[index] = future, _ = Future(), task
        self.most_ahead = max(self.most_ahead, index - min(self.under_way))
        return future

    def finish_one(self):
        index = self.random.choice(sorted(self.under_way))
        future, task = self.under_way.pop(index)
        if self.deaths.get(index, 0):
            self.deaths[index] -= 1
            future.set_exception(WorkerDiedError())
        else:
            future.set_result(self.job(task, lambda what: self.heard(index, what)))

    def _outcome(self, future):
        return future.result()

    def _end(self, futures):
        self.left = futures


class Waking(SimpleQueue):
    """Lets a task finish whenever somebody waits in vain."""

    def __init__(self, cluster):
        self.cluster = cluster

    def get(self):
        while self.empty():
            self.cluster.finish_one()
        return super().get()


@settings(max_examples=30)
@given(
    st.randoms(use_true_random=False),
    st.integers(1, 5),
    st.integers(0, 30),
    st.dictionaries(st.integers(0, 29), st.integers(1, RETRIES), max_size=5),
)
def test_any_order_and_any_death_give_the_same(random, workers, count, deaths):
    heard = []
    on = Random(random, workers, dict(deaths))
    hear = lambda index, what: heard.append((index, what))  # noqa: E731
    found = list(on.in_order(square, range(count), heard=hear))
    assert found == [k * k for k in range(count)]
    assert sorted(heard) == [(k, ("begun", k)) for k in range(count)]
    assert on.most_ahead < 8 * workers
    assert not on.left


def test_a_task_that_kills_every_worker_is_given_up_and_the_others_are_not():
    on = Random(Generator(0), 3, {1: RETRIES + 1})
    found = dict(on.run(square, [1, 2, 3]))
    assert (found[0], found[2]) == (1, 9)
    assert isinstance(found[1], cluster.ClusterError)
    assert str(found[1]).startswith("a worker was killed, for want of memory perhaps, and 3 others")


def test_an_error_of_a_task_is_a_result_and_in_order_raises_it():
    with cluster.connect("here") as here:
        found = dict(here.run(square, [2, None, 3]))
        assert (found[0], found[2]) == (4, 9)
        assert isinstance(found[1], TypeError)
        with pytest.raises(TypeError):
            list(here.in_order(square, [2, None, 3]))


def test_endless_tasks_are_taken_as_they_are_asked_for():
    from itertools import count, islice

    with cluster.connect("here") as here:
        assert list(islice(here.in_order(square, count()), 3)) == [0, 1, 4]


def test_what_is_told_outside_of_a_task_is_told_to_nobody():
    cluster.tell("nobody")
    assert cluster.worker() == 0


def test_addresses_that_are_none():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        silent = f"127.0.0.1:{taken.getsockname()[1]}"
        for address, said in (
            ("dusk://10.0.0.7:8786", "unknown engine 'dusk'; did you mean 'dask'"),
            ("", "unknown engine ''"),
            ("processes:0", "processes:N takes a number from 1, got '0'"),
            ("processes:many", "got 'many'"),
            ("here:1", "has no address, got '1'"),
            (7, "a cluster is one of dask://HOST:PORT, here, processes:N, ray://HOST:PORT"),
        ):
            with pytest.raises(cluster.ClusterError, match=said.replace("(", r"\(")):
                cluster.connect(address)
        for engine, package in (("dask", "distributed"), ("ray", "ray")):
            pytest.importorskip(package)
            with pytest.raises(cluster.ClusterError, match="needs HOST:PORT, got 'nowhere'"):
                cluster.connect(f"{engine}://nowhere")
            with pytest.raises(
                cluster.ClusterError, match=rf"nobody answers at {engine}://{silent}"
            ):
                cluster.connect(f"{engine}://{silent}")


@pytest.mark.parametrize(("engine", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_missing_package_is_named_with_its_extra(engine, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{engine}:// needs {package}.*qact\[{engine}\]"):
        cluster.connect(f"{engine}://127.0.0.1:1")


def test_other_versions_are_refused_by_name():
    with pytest.raises(cluster.ClusterError, match=r"torch .*, not 0\.1 as the process that asks"):
        agree(versions() | {"torch": "0.1"})
    failed = Job(square, {"qact": "0.0"})(3, lambda message: None)
    assert "qact 0.1.0, not 0.0" in str(failed.error)


def test_errors_that_cannot_be_pickled_arrive_as_their_words():
    class OddError(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a} and {b}")

    def odd(task):
        raise OddError(1, 2)

    failed = Job(odd)(0, lambda message: None)
    assert str(failed.error) == "OddError: 1 and 2"


def test_spark_frames_get_a_column():
    pandas = pytest.importorskip("pandas")
    mapped = cluster.in_pandas(square, "number", "squared")
    frames = [pandas.DataFrame({"number": [1, 2]}), pandas.DataFrame({"number": [3]})]
    assert [frame.squared.tolist() for frame in mapped(iter(frames))] == [[1, 4], [9]]
    with pytest.raises(TypeError):
        list(mapped(iter([pandas.DataFrame({"number": [None]}, dtype=object)])))


@pytest.mark.own_seed  # that of other processes
def test_processes_give_the_bits_of_one_though_workers_are_killed(marks):
    with cluster.connect("processes:2") as on:
        checks.check_record(on, marks)
        heard = []
        found = dict(on.run(square, [1, "deadly", 2], heard=lambda *what: heard.append(what)))
    assert (found[0], found[2]) == (1, 4)
    assert "a worker was killed, for want of memory perhaps" in str(found[1])
    assert set(heard) <= {(0, ("begun", 1)), (1, ("begun", "deadly")), (2, ("begun", 2))}


@pytest.mark.slow
def test_processes_run_a_bench_and_write_corruptions_as_one_does(tmp_path, marks, rivals):
    with cluster.connect("processes:4") as on:
        checks.check_batches(on)
        checks.check_corrupt(on, tmp_path)
        checks.check_bench(on, tmp_path, marks)


def test_a_process_that_begins_leaves_ctrl_c_to_its_parent():
    blocked = "import signal; print(*signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with deaf():
        inside = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True)
    outside = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True)
    assert (inside.stdout, outside.stdout) == ("2\n", "\n")
