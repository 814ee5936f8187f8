"""The grid of a recipe run to its end: cells, processes, progress."""

from qact.bench.runner.bench import run
from qact.bench.runner.train import train_network

__all__ = [
    "run",
    "train_network",
]
