"""Corrupted copies of a test set in the layout of CIFAR-10-C."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qact.corruptions.apply import corrupt
from qact.corruptions.registry import corruptions, known
from qact.datasets import manifest
from qact.datasets.download import digest
from qact.files import alone

if TYPE_CHECKING:
    from qact.integrations.cluster import Cluster

SEVERITIES = (1, 2, 3, 4, 5)
_BATCH = 512
_Block = tuple[str, int, Tensor]  # a corruption, the index of the first image, images


def write_corrupted(
    images: Tensor,
    labels: Tensor,
    folder: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on: Cluster | None = None,
    tell: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Write ``<corruption>.npy``, uint8 (5 N, H, W, C), one after the other, and ``labels.npy``.

    Rows ``k N`` to ``(k + 1) N`` have severity ``k + 1``. Every file is complete or absent; the
    same call goes on after an interruption and leaves what is there. ``manifest.json`` holds the
    seed and the checksums.

    Args:
        images: uint8 (N, C, H, W), C = 1 or 3.
        labels: int64 (N,).
        folder: created if need be.
        names: corruptions, by default the 19 of CIFAR-10-C.
        seed: see :func:`qact.shift.corrupt`.
        device: where to compute.
        on: a cluster of :func:`qact.cluster.connect`, to whose workers blocks of images go.
        tell: called with (corruption, images done, images in all).

    Returns:
        The folder.

    Raises:
        ValueError: unknown names, shapes that do not fit, or a folder that holds something else.
        BusyError: another process writes there.
        OSError: the disk is full; nothing incomplete is left under a final name.
    """
    names = tuple(corruptions("all") if names is None else names)
    for name in names:
        known(name)
    images, labels = _checked(images, labels)
    path = Path(folder).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    with alone(path):
        _fill(path, images, labels, names, int(seed), device, on, tell or (lambda *_: None))
    return path


def _fill(
    path: Path,
    images: Tensor,
    labels: Tensor,
    names: Sequence[str],
    seed: int,
    device: torch.device | str,
    on: Cluster | None,
    tell: Callable[[str, int, int], None],
) -> None:
    """Write what a folder still lacks, the labels first."""
    made_of = {"seed": seed, "images": list(images.shape), "sha256": _sum(images, labels)}
    state = _state(path, made_of)
    if "labels.npy" not in state["files"]:
        _save(path, "labels.npy", np.tile(labels.numpy(), len(SEVERITIES)), state)
    todo = [name for name in names if f"{name}.npy" not in state["files"]]
    _write(path, todo, images, partial(_levels, seed, device), state, on, tell)


def _checked(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images must be uint8 (N, C, H, W) with C = 1 or 3, got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    if labels.shape != images.shape[:1] or not len(labels):
        raise ValueError(f"labels must have shape ({len(images)},), got {tuple(labels.shape)}")
    return images.cpu(), labels.cpu().long()


def _sum(images: Tensor, labels: Tensor) -> str:
    whole = hashlib.sha256(images.contiguous().numpy().data)
    whole.update(labels.contiguous().numpy().data)
    return whole.hexdigest()


def _state(folder: Path, made_of: dict[str, Any]) -> dict[str, Any]:
    found = manifest.read(folder)
    if found is None:
        strange = sorted(p.name for p in folder.glob("*.npy"))
        if strange:
            raise ValueError(
                f"{folder} holds {strange[0]} and no {manifest.FILE}: it was not written here; "
                "choose another folder"
            )
        return {**made_of, "files": {}}
    different = [key for key, value in made_of.items() if found.get(key) != value]
    if different:
        key = different[0]
        raise ValueError(
            f"{folder} was written with {key} = {found.get(key)}, not {made_of[key]}; "
            "choose another folder"
        )
    found.pop("format")
    whole = {n: s for n, s in found["files"].items() if (folder / n).is_file()}
    return {**found, "files": whole}


def _write(
    folder: Path,
    names: Sequence[str],
    images: Tensor,
    levels: Callable[[_Block], np.ndarray],
    state: dict[str, Any],
    on: Cluster | None,
    tell: Callable[[str, int, int], None],
) -> None:
    """Write all blocks of all corruptions, in whatever order they come."""
    starts = range(0, len(images), _BATCH)
    blocks = ((name, k, images[k : k + _BATCH]) for name in names for k in starts)
    made = enumerate(map(levels, blocks)) if on is None else on.run(levels, blocks)
    with ExitStack() as stack:
        files: dict[str, _Part] = {}
        for index, found in made:
            if isinstance(found, Exception):
                raise found
            name, start = names[index // len(starts)], starts[index % len(starts)]
            if name not in files:
                files[name] = stack.enter_context(_Part(folder, name, images))
            done, total = files[name].put(start, found)
            tell(name, done, total)
            if done == total:
                _finish(folder, f"{name}.npy", files.pop(name).path, state)


def _levels(seed: int, device: torch.device | str, block: _Block) -> np.ndarray:
    """A block of images at every severity: uint8 (5, n, H, W, C)."""
    name, start, images = block
    batch = images.to(device).float().div_(255)
    index = torch.arange(start, start + len(images))
    return np.stack([_bytes(corrupt(batch, name, k, seed=seed, index=index)) for k in SEVERITIES])


def _bytes(images: Tensor) -> np.ndarray:
    return images.mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


class _Part:
    """The file of one corruption while it is written: removed, unless it was given its name."""

    def __init__(self, folder: Path, name: str, images: Tensor) -> None:
        n, c, h, w = images.shape
        self.path, size = folder / f".{name}.npy.part", len(SEVERITIES) * images.numel()
        if shutil.disk_usage(folder).free < size + (1 << 16):
            raise OSError(f"no room for {folder / name}.npy: it needs {size} bytes")
        self._out = np.lib.format.open_memmap(
            self.path, "w+", np.uint8, (len(SEVERITIES) * n, h, w, c)
        )
        self._done = 0

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *exc: object) -> None:
        self.path.unlink(missing_ok=True)

    def put(self, start: int, block: np.ndarray) -> tuple[int, int]:
        """Take a block; return how many images there are, and how many there will be."""
        k, n = block.shape[:2]
        self._out.reshape(k, -1, *block.shape[2:])[:, start : start + n] = block
        self._done += k * n
        total = len(self._out)
        if self._done == total:
            self._out.flush()
        return self._done, total


def _save(folder: Path, file: str, array: np.ndarray, state: dict[str, Any]) -> None:
    part = folder / f".{file}.part"
    with part.open("wb") as target:
        np.save(target, array, allow_pickle=False)
    _finish(folder, file, part, state)


def _finish(folder: Path, file: str, part: Path, state: dict[str, Any]) -> None:
    """Give a whole file its name, then enter it: a name that is not entered is written again."""
    # Sorted: what a folder says of itself does not depend on which worker was done first.
    state["files"] = dict(sorted((state["files"] | {file: digest(part, "sha256")}).items()))
    os.replace(part, folder / file)
    manifest.write(folder, state)
