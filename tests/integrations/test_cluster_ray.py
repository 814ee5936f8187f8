"""Ray: four worker processes on this machine, some of which are killed."""

from __future__ import annotations

import os
from pathlib import Path

import cluster_checks as checks
import pytest
import torch

from qact import cluster

ray = pytest.importorskip("ray")


@pytest.mark.slow
def test_four_workers_give_the_bits_of_one_process(tmp_path, marks, rivals, monkeypatch):
    helpers, before = str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([helpers, before]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        with cluster.connect("ray://auto") as on:
            checks.check_record(on, marks)
            checks.check_batches(on)
            checks.check_corrupt(on, tmp_path)
            checks.check_bench(on, tmp_path, marks)
    finally:
        ray.shutdown()
        torch.set_num_threads(threads)
