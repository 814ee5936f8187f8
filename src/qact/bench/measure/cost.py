"""What a method costs: time per image, and the memory of a training step, measured after training.

Times are medians of a few repetitions, with whatever else runs on the machine beside them.
``kept_mib`` counts the tensors that the forward pass of one training batch keeps for the backward
pass, each storage once and without the weights: what an activation adds to the memory of training.
On a GPU ``peak_mib`` is the most that the allocator held during the step beyond what it held
before.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable
from statistics import median
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from qact.bench.data import Inputs
from qact.bench.measure.adapt import deal, dealing
from qact.bench.recipe.adaptations import parse_adaptation
from qact.bench.recipe.training import Training
from qact.bench.train.epoch import Loss
from qact.bench.train.losses import objective

REPEATS, IMAGES, MIB = 3, 200, 2**20

Costs = dict[str, Any]  # JSON


def costs(
    model: nn.Module, inputs: Inputs, training: Training, adaptations: tuple[str, ...]
) -> Costs:
    """Return ``step_ms`` and ``predict_ms[adaptation]`` per image, and ``kept_mib`` of a batch.

    Methods of :mod:`qact.adapt` are timed on their way through a stream, row by row.
    """
    device = inputs.train[0].device
    x, y = (part[: training.batch] for part in inputs.train)
    chosen = objective(training.loss, training.label_smoothing)
    loss = Loss(copy.deepcopy(model).train(), chosen, training.precision)

    def step() -> None:
        loss(x, y).backward()
        loss.zero_grad(set_to_none=True)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        spent = _milliseconds(step, device)
        memory = {"kept_mib": round(_kept(lambda: loss(x, y), loss) / MIB, 2)}
        if device.type == "cuda":
            memory["peak_mib"] = round(_peak(step, device) / MIB, 2)
    images = inputs.shifted("none", 0, 0)[:IMAGES]
    order = torch.arange(len(images))
    predicted = {}
    for name in adaptations:
        kind = parse_adaptation(name)
        if kind.context is not None and (kind.batch or 1) <= len(images):
            method = dealing(kind, model, x)
            predicted[name] = _milliseconds(
                lambda method=method, kind=kind: deal(method, images, kind, order),  # type: ignore[misc]
                device,
            )
    return {
        "step_ms": round(spent / len(x), 4),
        **memory,
        "predict_ms": {name: round(ms / len(images), 4) for name, ms in predicted.items()},
    }


def _milliseconds(work: Callable[[], object], device: torch.device) -> float:
    def once() -> float:
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1000 * (time.perf_counter() - begin)

    once()  # compiles, fills caches
    return median(once() for _ in range(REPEATS))


def _kept(loss: Callable[[], object], model: nn.Module) -> int:
    """Return the bytes of the storages that autograd saves while ``loss`` is computed."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = loss()  # held until the sizes are known: a freed storage's place is used again
        found = sum(sizes.values())
    del result
    return found


def _peak(work: Callable[[], object], device: torch.device) -> int:
    """Return the bytes that ``work`` holds at most on a GPU, beyond what is held before."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


class Clock:
    """Times calls; a GPU is waited for, and then it is the wall's time.

    Example:
        >>> clock = Clock(torch.device("cpu"))
        >>> _ = clock(lambda: torch.ones(3).cumsum(0))
        >>> clock.median_ms() >= 0
        True
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._device = device
        self.seconds: list[float] = []

    def __call__(self, work: Callable[[], Tensor]) -> Tensor:
        """Return what ``work`` returns."""
        begin = self._now()
        result = work()
        self.seconds.append(self._now() - begin)
        return result

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize(self._device)
            return time.perf_counter()
        return time.thread_time()

    def median_ms(self) -> float:
        """Return the median over calls, in milliseconds."""
        return round(1000 * median(self.seconds), 3)


def held(owner: object) -> int:
    """Return the bytes of all tensors that ``owner`` keeps alive, gradients included.

    References are followed as the garbage collector sees them, whatever objects lie between:
    modules, optimisers, memories. Classes and Python modules are not: theirs is everybody's.

    Example:
        >>> import torch
        >>> memory = [torch.zeros(8), {"view": torch.zeros(8)[:1], "again": (torch.zeros(2),)}]
        >>> held(memory)
        72
    """
    sizes: dict[int, int] = {}
    seen: set[int] = set()
    waiting: list[Any] = [owner]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type | ModuleType):
            continue
        seen.add(id(item))
        waiting += _next(item)
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def _next(item: Any) -> list[Any]:
    if isinstance(item, Tensor):
        return [item.grad] if item.is_leaf and item.grad is not None else []
    if isinstance(item, FunctionType):  # but not the globals of its module
        return [item.__closure__, item.__defaults__, item.__kwdefaults__]
    return gc.get_referents(item)
