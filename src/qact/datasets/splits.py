"""A data set cut in three, always the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from qact import checks
from qact.datasets.arrays import pair, part
from qact.datasets.formats import Arrays

SPLIT_SEED = 0
VALIDATION = 0.1
TEST = 0.2

Part = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Splits:
    """A data set cut in three; each part is (images uint8 (N, C, H, W), labels int64 (N,)).

    Choose on ``val``; ``test`` is for the number that is reported.
    """

    name: str
    train: Part
    val: Part
    test: Part
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def limited(self, count: int) -> Splits:
        """Return at most ``count`` images of every part, each class in proportion, in order."""

        def few(images: Tensor, labels: Tensor) -> Part:
            order = stratified_order(labels.numpy(), SPLIT_SEED)[:count]
            return part((images.numpy(), labels.numpy()), np.sort(order))

        return replace(self, train=few(*self.train), val=few(*self.val), test=few(*self.test))


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Permutation of which every prefix has each class in proportion, to within one image or so.

    Example:
        >>> labels = np.array([0] * 6 + [1] * 2)
        >>> labels[stratified_order(labels, 0)[:4]].tolist().count(1)
        1
    """
    # RandomState's streams are frozen by numpy's policy: the split will not move with a version.
    shuffled = np.random.RandomState(seed).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        mine = np.flatnonzero(labels[shuffled] == label)
        place[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    return shuffled[np.argsort(place, kind="stable")]


def cut(arrays: Arrays, share: float) -> tuple[Part, Part]:
    """Return the rest and a ``share`` of the images, stratified with a fixed seed, in order."""
    order = stratified_order(arrays[1], SPLIT_SEED)
    count = round(share * len(order))
    return part(arrays, np.sort(order[count:])), part(arrays, np.sort(order[:count]))


def assembled(
    name: str, train: Arrays, val: Arrays | None, test: Arrays | None, class_names: Sequence[str]
) -> Splits:
    """Return :class:`Splits`; a part that is None is cut from ``train``, the test part first."""
    for which, given in (("val", val), ("test", test)):
        if given is not None and given[0].shape[1:] != train[0].shape[1:]:
            raise ValueError(
                f"{which} images are {given[0].shape[1:]} and train images {train[0].shape[1:]}"
            )
        if (
            given is not None
            and len(given[1])
            and len(train[1])
            and not np.isin(given[1], train[1]).any()
        ):
            raise ValueError(
                f"no {which} image of {name!r} is of a class that is trained on: labels "
                f"{_range(given[1])} there, {_range(train[1])} in the train part"
            )
    if test is None:
        (images, labels), tested = cut(train, TEST)
        train = images.numpy(), labels.numpy()
    else:
        tested = part(test)
    trained, watched = cut(train, VALIDATION) if val is None else (part(train), part(val))
    for which, (_, labels) in (("train", trained), ("val", watched), ("test", tested)):
        if not len(labels) and which != "val":  # a tenth of a few images may be none
            raise ValueError(f"{name!r} leaves no images for the {which} part")
        if len(labels) and int(labels.max()) >= len(class_names):
            raise ValueError(
                f"the {which} labels of {name!r} reach {int(labels.max())}, "
                f"there are {len(class_names)} classes"
            )
    return Splits(name, trained, watched, tested, tuple(class_names))


def _range(labels: np.ndarray) -> str:
    return f"{labels.min()} to {labels.max()}"


def from_arrays(
    train: tuple[Any, Any],
    test: tuple[Any, Any] | None = None,
    val: tuple[Any, Any] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
) -> Splits:
    """Return any (images, labels) pairs of arrays or tensors as a data set.

    Args:
        train: images, bytes or floats in [0, 1], of shape (N, H, W), (N, H, W, C) or (N, C, H, W)
            with C = 1 or 3 (where both fit, channels first), and integer labels (N,).
        test: the same; None cuts a fifth of ``train``, stratified with a fixed seed.
        val: the same; None cuts a tenth of what is left of ``train``.
        class_names: names in the order of the labels; by default ``"0"``, ``"1"``, ...
        name: how the set is called.

    Raises:
        ValueError: shapes, ranges or labels that do not fit, or a part without images.
        TypeError: other dtypes.

    Example:
        >>> import numpy as np
        >>> from qact.datasets import from_arrays
        >>> data = from_arrays((np.zeros((50, 8, 8), np.uint8), np.arange(50) % 5))
        >>> [len(labels) for _, labels in (data.train, data.val, data.test)], data.num_classes
        ([36, 4, 10], 5)
    """
    for which, given in (("train", train), ("val", val), ("test", test)):
        optional = given is None and which != "train"
        if not (optional or (isinstance(given, tuple | list) and len(given) == 2)):
            raise TypeError(f"{which}={checks.shown(given)} must be a pair (images, labels)")
    first = pair(*train, "train")
    others = [None if p is None else pair(*p, which) for p, which in ((val, "val"), (test, "test"))]
    if class_names is not None:
        checks.distinct("class_names", list(class_names))
    else:
        most = max(int(a[1].max(initial=0)) for a in (first, *others) if a is not None)
        used = len(np.unique(np.concatenate([a[1] for a in (first, *others) if a is not None])))
        if 2 * used <= most:  # a stray label, not a class that a small set happens to lack
            raise ValueError(
                f"the labels of {name!r} reach {most}, but only {used} of these {most + 1} classes "
                "have images; number the classes from 0 on, or give class_names"
            )
        class_names = [str(k) for k in range(most + 1)]
    return assembled(name, first, others[0], others[1], class_names)
