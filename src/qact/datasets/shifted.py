"""Test sets under shift as others have published them: labelled images, nothing to train on."""

from __future__ import annotations

import os
from collections.abc import Sequence

from qact.datasets.data import data_folder
from qact.datasets.registry import Request, ShiftedSet, entry, names
from qact.registry import unknown


def load_shifted(
    name: str,
    corruption: str | None = None,
    severity: int | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
    size: int | None = None,
    limit: int | None = None,
    class_names: Sequence[str] | None = None,
    download: bool = False,
) -> ShiftedSet:
    """Read a published test set under shift.

    Args:
        name: one of ``qact.shift.TEST_SETS``: ``"cifar10.1"``; ``"cifar10-c"``, ``"cifar100-c"``
            and ``"mnist-c"`` (``.npy`` files; those of ``qact corrupt`` too);
            ``"tiny_imagenet-c"``, ``"imagenet-c"``, ``"imagenet-a"``, ``"imagenet-r"`` and
            ``"imagenet-sketch"`` (folders).
        corruption: for the sets whose name ends in ``-c``.
        severity: 1 to 5, for these but MNIST-C, which has one.
        root: folder above or of the set; default the environment variable ``QACT_DATA``.
        size: side in pixels for image files (default 64 for Tiny ImageNet, else 224).
        limit: at most that many images, spread evenly.
        class_names: folder names in the order of the labels; ImageNet-A and -R have 200 of the
            1000, and with these names the labels are those of a classifier of 1000. By default the
            sorted folders.
        download: get what is missing from the public origin first.

    Raises:
        ValueError: unknown names, a severity outside 1 to 5, or a damaged or incomplete set.
        FileNotFoundError: a file is missing; the message names the expected checksum and origin.
    """
    if name not in names(shifted=True):
        raise unknown("test set", name, names(shifted=True))
    found = entry(name)
    if ("corruption" in found.conditions) != (corruption is not None):
        need = "needs a corruption" if corruption is None else "has no corruptions"
        raise ValueError(f"{name!r} {need}, got corruption={corruption!r}")
    if "severity" not in found.conditions and severity is not None:
        raise ValueError(f"{name!r} has no severities, got severity={severity!r}")
    if "severity" in found.conditions and (
        isinstance(severity, bool) or severity not in range(1, 6)
    ):
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity!r}")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit must be a positive integer or None, got {limit!r}")
    request = Request(corruption, severity, size, limit, class_names)
    result: ShiftedSet = found.make(data_folder(found, root, download), request)
    return result
