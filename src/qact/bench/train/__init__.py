"""One network trained: epochs, schedules, losses, checkpoints, several processes."""

from qact.bench.train.losses import objective
from qact.bench.train.network import Trained, build, train_cell

__all__ = [
    "Trained",
    "build",
    "objective",
    "train_cell",
]
