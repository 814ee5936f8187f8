"""Training in several processes, started by ``torchrun``: who this one is, and what it shares.

Every process works on its share of each batch; gradients are averaged by
``DistributedDataParallel``. Only the first one writes files and speaks. One process alone is a
world of size 1, in which nothing here does anything.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from qact.bench.errors import RecipeError
from qact.nn.distributed import convert_sync_
from qact.nn.layer import QAct
from qact.nn.normed import ChannelNorm


@dataclass(frozen=True)
class Ranks:
    """This process's number among all, and how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """Return this process's part of a batch of indices."""
        if len(batch) % self.size:
            raise RecipeError(
                f"training.batch {len(batch)} does not divide among {self.size} processes"
            )
        return batch.tensor_split(self.size)[self.rank]

    def mean(self, values: list[float]) -> list[float]:
        """Return the mean over all processes of each value."""
        if self.size == 1:
            return values
        summed = torch.tensor(values, dtype=torch.float64, device=_place())
        dist.all_reduce(summed)
        return (summed / self.size).tolist()

    def agree(self, model: nn.Module) -> None:
        """Give all processes the first one's buffers: statistics of unsynchronised layers."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wrapped(self, module: nn.Module) -> nn.Module:
        """Return a module whose gradients are averaged over the processes."""
        if self.size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module)

    @contextmanager
    def read(self, path: Path) -> Iterator[Path | None]:
        """Yield a file of the first process, or None if it has none, to all of them.

        The others get a copy, so that several machines need no common file system.
        """
        if self.size == 1:
            yield path if path.exists() else None
            return
        content = _broadcast(path.read_bytes() if self.first and path.exists() else b"")
        with tempfile.TemporaryDirectory() as folder:
            local = path if self.first else Path(folder) / path.name
            if not self.first and content:
                local.write_bytes(content)
            yield local if content else None


def _broadcast(content: bytes) -> bytes:
    place = _place()
    length = torch.tensor(len(content), device=place)
    dist.broadcast(length, 0)
    if not length:
        return b""
    whole = torch.empty(int(length), dtype=torch.uint8, device=place)
    if content:
        whole.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    dist.broadcast(whole, 0)
    return whole.cpu().numpy().tobytes()


def _place() -> torch.device:
    """Where the backend's tensors live: NCCL's on the process's GPU."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def _import_collectives() -> None:
    """Import what would keep the process group alive if it were imported while there is one.

    ``torch.distributed.nn`` has the group of its first import in the default arguments of its
    functions, and ``DistributedDataParallel`` imports it. A group that something keeps is not freed
    by ``destroy_process_group``, and gloo's threads only end with it: one that waits for the
    interpreter's lock while the interpreter is torn down aborts the process (pytorch#190489).
    """
    with suppress(ImportError):
        import torch.distributed.nn  # noqa: F401


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """Join the processes that ``torchrun`` started; yield who this one is, and its device.

    ``cuda`` becomes the GPU of the process's place on its machine. Without ``torchrun`` there is
    one process.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks(), device
        return
    cuda = torch.device(device).type == "cuda"
    if cuda:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    _import_collectives()
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(minutes=30))
    try:
        yield Ranks(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()


def synchronised(model: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """Return the network with contexts and statistics over the batch of all processes.

    QAct layers become :class:`qact.SyncQAct`. BatchNorm layers become ``nn.SyncBatchNorm`` on GPUs;
    PyTorch has none for a CPU, where they become the norm that stands around a QAct layer, which
    has. Names and tensors stay the same.
    """
    if ranks.size == 1:
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        _as_channel_norms(model)
    if any(isinstance(layer, (QAct, ChannelNorm)) for layer in model.modules()):
        convert_sync_(model)
    return model


def _as_channel_norms(model: nn.Module) -> None:
    """Let BatchNorms with a scale be ChannelNorms over dimension 1: the same function and state."""
    for layer in model.modules():
        if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d) and layer.affine:
            layer.__class__ = ChannelNorm
            layer.dim = 1  # type: ignore[assignment]
