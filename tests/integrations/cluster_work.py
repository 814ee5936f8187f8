"""What the tests of clusters send to workers, which import it by name."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
from torch import nn

from qact import cluster


def network():
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3),
        nn.BatchNorm2d(4),
    )
    return nn.Sequential(*layers).eval()


def read(seed, batches=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(16, 3, 8, 8, generator=generator) ** 2 - 0.3 for _ in range(batches)]


def die_once(mark: Path):
    """Kill this process, unless one before it did."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def dying_read(task):
    """:func:`read`, but the first worker at some of the shards dies."""
    marks, seed = task
    if seed in (1, 3):
        die_once(Path(marks) / f"shard-{seed}")
    return read(seed)


def square(task):
    cluster.tell(("begun", task))
    if task == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return task**2


class Once(nn.Module):
    """A ReLU that kills the first process that runs it."""

    def forward(self, x):
        die_once(Path(os.environ["QACT_MARKS"]) / "cell")
        return torch.relu(x)


def jobs(dask_worker):
    """Of which types the jobs are that a worker of Dask may be asked for by others."""
    return [type(v).__name__ for k, v in dask_worker.data.items() if k.endswith("-job")]
