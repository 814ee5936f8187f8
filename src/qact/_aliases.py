"""Paths of modules that have moved: what imported them goes on working.

A name of this table stands in ``sys.modules`` from ``import qact`` on, so Python never looks for a
file of that name and never binds it over a function (``qact.layer`` and ``qact.convert`` are
functions now, and were modules too). The module behind it is imported when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

_ROOMS = {
    "rank": ("bandwidth", "grid", "histogram", "layout", "levels", "moving", "rule"),
    "nn": ("distributed", "layer", "lazy", "normed"),
    "integrations": ("lightning", "sklearn"),
}
# From the first package into the second went these modules, as they are called.
_WHOLE = {
    ("shift", "corruptions"): "affine alias augment augmix blur dct digital edges elastic"
    " glass jpeg linear lines mnist_c noise random registry spatter weather",
    ("shift", "datasets"): "archives arrays corrupted data download folders formats local manifest"
    " shifted sources splits streams writer",
    ("convert", "conversion"): "build dims dryrun fit graft lazy model plan report rewrite sites"
    " static warm",
    ("convert", "surgery"): "kinds where wrapped",
}
_BENCH = {
    "adapt": "measure.adapt",
    "adaptation": "recipe.adaptations",
    "average": "train.ema",
    "checkpoint": "train.checkpoint",
    "cost": "measure.cost",
    "evaluate": "measure.evaluate",
    "files": "store.files",
    "inputs": "data",
    "join": "store.join",
    "keys": "recipe.rows",
    "metrics": "measure.metrics",
    "objective": "train.losses",
    "presets": "recipe.presets",
    "progress": "runner.progress",
    "published": "report.published",
    "ranking": "report.ranking",
    "results": "store.results",
    "rivals": "recipe.rivals",
    "schedule": "train.schedules",
    "shift": "recipe.shift",
    "stat": "report.summary",
    "study": "recipe.presets",
    "subject": "recipe.recipe",
    "summary": "report.summary",
    "table": "report.terminal",
    "toml": "recipe.toml",
    "training": "recipe.training",
}
MOVED = {
    "adapt.flags": "surgery.flags",
    "calibration.torchmetric": "integrations.torchmetrics",
    "convert": "conversion",
    "adapt.contexts": "statistics.lend",
    "attention.lengths": "attention.length_scaled",
    "cluster": "integrations.cluster",  # `qact.cluster`, for statements that import from it
    "conversion.respelled": "conversion.softmax_calls",
    "kernels.nearest": "kernels.fast_export",
    "monitor.rows": "monitor.parquet",
    "adapt.distance": "statistics.distance",
    "convert.stand": "conversion.rehearsal",
    "convert.swap": "surgery.edit",
    "distance": "statistics.distance",
    "initialize": "activations.initialize",
    "plausible": "rank.validation",
    "statistics.running": "statistics.batchnorm",
    "weights.map": "weights.module",
    **{name: f"{room}.{name}" for room, names in _ROOMS.items() for name in names},
    "shift.commands": "cli.data",
    "shift.constants": "corruptions.registry",
    "shift.origins": "datasets.registry",
    "shift.tiny_imagenet": "datasets.sets.tiny_imagenet",
    **{f"bench.{old}": f"bench.{new}" for old, new in _BENCH.items()},
    **{f"{a}.{name}": f"{b}.{name}" for (a, b), names in _WHOLE.items() for name in names.split()},
}


class _Alias(ModuleType):
    """Stands for another module, attribute by attribute."""

    def __init__(self, name: str, target: str) -> None:
        super().__init__(name, f"Moved to ``{target}``.")
        self.__target__ = target
        self.__path__: list[str] = []  # a parent of further aliases

    def __getattr__(self, name: str) -> object:
        # Tools that go through sys.modules ask every module for its file and the like.
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(import_module(self.__target__), name)

    def __dir__(self) -> list[str]:
        return dir(import_module(self.__target__))


def install() -> None:
    """Let every old path stand for the module that took its place."""
    for old, new in MOVED.items():
        sys.modules.setdefault(f"qact.{old}", _Alias(f"qact.{old}", f"qact.{new}"))
