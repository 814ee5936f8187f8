"""Images as tensors ready for the network: loaded once, normalised by the training set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from qact import checks
from qact.bench.errors import RecipeError
from qact.bench.recipe.recipe import Data
from qact.datasets.splits import Splits

Conditions = tuple[tuple[str, int], ...]  # (corruption, severity): one, or one per image

PARTS = ("train", "val", "test")
_ROUNDED = 0.05  # levels of 255 by which a mean may differ on another machine
_CACHE_BYTES = 256 * 2**20  # corrupted test sets kept in memory, per process


@dataclass(frozen=True, eq=False)
class Inputs:
    """One data set: normalised train and validation images, raw test images in [0, 1], labels.

    ``stored`` are the training images as they came (uint8), for augmentations.
    """

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor
    std: Tensor
    num_classes: int
    stored: Tensor
    _corrupted: dict[tuple[str, int, int], Tensor] = field(default_factory=dict)
    _parts: dict[int, Inputs] = field(default_factory=dict)

    def sizes(self) -> dict[str, int]:
        """Return how many images each part has."""
        parts = {"train": self.train[1], "val": self.val[1], "test": self.test_labels}
        return {name: len(labels) for name, labels in parts.items()}

    def digest(self) -> str:
        """Return a checksum: two processes that have the same have the same images and labels."""
        whole = hashlib.blake2b(digest_size=16)
        for part in (self.stored, self.train[1], *self.val, self.test_images, self.test_labels):
            whole.update(f"{part.dtype} {tuple(part.shape)}".encode())
            whole.update(part.cpu().contiguous().numpy().data)
        return whole.hexdigest()

    def print_of(self, *parts: str) -> dict[str, list[Any]]:
        """Return by what to know ``"train"``, ``"val"`` and ``"test"`` again, see :func:`changed`.

        A checksum of the labels, mean and spread of the images by channel, in levels of 255; and
        none of every pixel: another processor rounds, and another Pillow decodes, some otherwise.
        """
        spread, mean = torch.std_mean(self.test_images, (0, 2, 3), correction=0)
        known = {
            "train": (self.train[1], self.mean, self.std),
            "val": (self.val[1],),
            "test": (self.test_labels, mean, spread),
        }
        return {
            part: [
                hashlib.blake2b(known[part][0].cpu().numpy().data, digest_size=16).hexdigest(),
                *(255 * value for moment in known[part][1:] for value in moment.flatten().tolist()),
            ]
            for part in parts
        }

    def to(self, device: str | torch.device) -> Inputs:
        """Return the data set on a device; this one, if it is there already."""
        if torch.device(device) == self.train[0].device:
            return self
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: _moved(v, device) for k, v in tensors.items() if isinstance(v, (Tensor, tuple))}
        return replace(self, **moved, _corrupted={}, _parts={})

    def normalised(self, images: Tensor) -> Tensor:
        """Return images in [0, 1] as the network sees them."""
        return (images - self.mean) / self.std

    def first(self, count: int | None) -> Inputs:
        """Return the data set with the first test images alone; None for all of them."""
        if count is None or count >= len(self.test_labels):
            return self
        if count not in self._parts:
            images, labels = self.test_images[:count], self.test_labels[:count]
            self._parts[count] = replace(
                self, test_images=images, test_labels=labels, _corrupted={}, _parts={}
            )
        return self._parts[count]

    def under(self, conditions: Conditions, index: Tensor, seed: int) -> Tensor:
        """Return some normalised test images (n,), under one condition or each under its own."""
        if len(set(conditions)) == 1:
            return self._some(conditions[0], index, seed)
        found = self.normalised(self.test_images[index])
        for condition in sorted(set(conditions)):
            mine = torch.tensor([one == condition for one in conditions])
            found[mine] = self._some(condition, index[mine], seed)
        return found

    def _some(self, condition: tuple[str, int], index: Tensor, seed: int) -> Tensor:
        name, severity = condition
        if (name, severity, seed) in self._corrupted or self._fits():
            return self.shifted(name, severity, seed)[index]
        from qact.corruptions import corrupt

        images = corrupt(self.test_images[index], name, severity, seed=seed, index=index)
        return self.normalised(images)

    def _fits(self) -> bool:
        """Whether there is room for one more corrupted test set."""
        return (len(self._corrupted) + 1) * self.test_images.nbytes <= _CACHE_BYTES

    def shifted(self, corruption: str, severity: int, seed: int) -> Tensor:
        """Return the normalised test images under one condition; severity 0 is the clean set.

        The same seed corrupts the same images for every activation and every training seed.
        """
        key = (corruption, severity, seed)
        if key in self._corrupted:
            return self._corrupted[key]
        images = self.test_images
        if severity:
            from qact.corruptions import corrupt

            images = corrupt(images, corruption, severity, seed=seed)
        normalised = self.normalised(images)
        if self._fits():
            self._corrupted[key] = normalised
        return normalised


def changed(before: dict[str, list[Any]], now: dict[str, list[Any]]) -> bool:
    """Whether two of :meth:`Inputs.print_of` are of other images or labels, part by part.

    Example:
        >>> changed({"test": ["f0", 120.3, 70.1]}, {"test": ["f0", 120.301, 70.1]})
        False
    """
    return any(
        before[part][0] != now[part][0]
        or len(before[part]) != len(now[part])
        or any(abs(a - b) > _ROUNDED for a, b in zip(before[part][1:], now[part][1:], strict=True))
        for part in before.keys() & now.keys()
    )


@lru_cache(maxsize=1)
def load_inputs(data: Data) -> Inputs:
    """Load a data set of :mod:`qact.shift`, normalised by mean and spread of its train part.

    Raises:
        RecipeError: the name is not known, a size does not fit, or a file is missing or damaged.
    """
    from qact.datasets import load

    try:
        splits = load(data.name, size=data.size, limit=data.limit)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"data {data.name!r}: {error}") from error
    except OSError as error:
        raise RecipeError(f"data {data.name!r}: {checks.reason(error)}") from error
    classes = splits.train[1].unique().tolist()
    if len(classes) < 2:
        raise RecipeError(
            f"data {data.name!r}: all training images are of one class, "
            f"{splits.class_names[classes[0]]!r}; a classifier needs at least two"
        )
    if data.with_validation:
        splits = _joined(splits)
    (train, train_y), (val, val_y), (test, test_y) = (
        (images.float() / 255, labels.long())
        for images, labels in (splits.train, splits.val, splits.test)
    )
    mean = train.mean((0, 2, 3), keepdim=True)
    std = train.std((0, 2, 3), keepdim=True).clamp(min=1e-6)
    return Inputs(
        train=((train - mean) / std, train_y),
        val=((val - mean) / std, val_y),
        test_images=test[: data.test_limit],
        test_labels=test_y[: data.test_limit],
        mean=mean,
        std=std,
        num_classes=splits.num_classes,
        stored=splits.train[0],
    )


def _joined(splits: Splits) -> Splits:
    """Return the data set with its validation images among those to train on."""
    images, labels = (torch.cat(parts) for parts in zip(splits.train, splits.val, strict=True))
    return replace(splits, train=(images, labels), val=(images[:0], labels[:0]))


def _moved(value: Any, device: str | torch.device) -> Any:
    if isinstance(value, tuple):
        return tuple(_moved(part, device) for part in value)
    return value.to(device)


def permutation(length: int, *seeds: int) -> Tensor:
    """Return a permutation of ``range(length)`` that depends on the seeds alone.

    Example:
        >>> bool((permutation(10, 3, 1) == permutation(10, 3, 1)).all())
        True
    """
    mixed = 0
    for seed in seeds:  # distinct tuples of small seeds give distinct states
        mixed = (mixed * 1_000_003 + seed + 1) % 2**63
    return torch.randperm(length, generator=torch.Generator().manual_seed(mixed))
