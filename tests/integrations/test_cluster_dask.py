"""Dask: four worker processes on this machine, some of which are killed."""

from __future__ import annotations

import os

import cluster_checks as checks
import pytest
import torch
from cluster_work import jobs

from qact import cluster
from qact.integrations.cluster.task import versions

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """A scheduler with four workers that see the tests' helpers."""
    marks = tmp_path_factory.mktemp("marks")
    os.environ["QACT_MARKS"] = str(marks)
    options = {"n_workers": 4, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options, silence_logs=50) as local:
        yield local.scheduler_address, marks
    del os.environ["QACT_MARKS"]


@pytest.fixture
def on(scheduler):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with cluster.connect(scheduler[0].replace("tcp", "dask")) as connected:
        yield connected
    torch.set_num_threads(before)


@pytest.mark.own_seed  # that of other processes
def test_four_workers_count_the_bits_of_one_process(on, scheduler):
    assert (on.room(), on.shares_files) == (8, False)
    checks.check_record(on, scheduler[1])
    checks.check_batches(on)


def test_what_workers_send_on_is_not_what_they_work_with(on):
    """A model that is pickled while it runs takes half of its hooks along."""
    running = on.run(len, ["a", "bc"])
    next(running)
    held = on._client.run(jobs).values()
    assert {kind for kinds in held for kind in kinds} == {"bytes"}
    next(running)


@pytest.mark.slow
def test_four_workers_train_and_corrupt_as_one_process_does(on, scheduler, tmp_path, rivals):
    checks.check_corrupt(on, tmp_path)
    checks.check_bench(on, tmp_path, scheduler[1])


def test_a_client_stays_its_owners_and_other_versions_are_refused(scheduler, monkeypatch):
    with distributed.Client(scheduler[0]) as client:
        with cluster.connect(client) as on:
            assert list(on.in_order(len, ["a", "bc"])) == [1, 2]
        assert client.status == "running"
        monkeypatch.setattr(torch, "__version__", "9.9.9")
        with pytest.raises(
            cluster.ClusterError, match=r"worker tcp://.* has torch .*, not 9\.9\.9"
        ):
            cluster.connect(client)
        monkeypatch.undo()
        assert versions()["torch"] != "9.9.9"


def test_a_scheduler_without_workers_is_said_to_have_none():
    empty = distributed.LocalCluster(n_workers=0, dashboard_address=":0", processes=False)
    refused = pytest.raises(cluster.ClusterError, match=r"has no workers; start some with `dask")
    with empty, distributed.Client(empty) as client, refused:
        cluster.connect(client)
