"""The data sets by name: what reads each, and where the public gets it.

A data set is one file of :mod:`qact.datasets.sets`, or anybody's: a function, entered by
:func:`register` with its paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from qact.registry import Entry, Registry


@dataclass(frozen=True)
class Download:
    """One file of a public data set.

    Args:
        url: its address.
        file: its path under the root.
        algorithm: ``"md5"`` or ``"sha256"``.
        checksum: of the file as downloaded.
        into: folder under the root that an archive is extracted into; None for a plain file.
    """

    url: str
    file: str
    algorithm: str
    checksum: str
    into: str | None = None


def archive(url: str, md5: str, into: str = ".") -> Download:
    """Return the download of an archive."""
    return Download(url, url.rpartition("/")[2], "md5", md5, into)


@dataclass(frozen=True)
class DataSet(Entry):
    """One data set.

    ``make(root, size, limit)`` returns :class:`qact.datasets.splits.Splits`; for a test set under
    shift ``make(root, request)`` returns a :class:`ShiftedSet`. ``root`` is the folder that was
    given, None for a set without an ``origin``.

    Args:
        origin: where the public gets it; sets with one are read from a folder.
        downloads: its files, if their checksums are known.
        sized: ``size`` in pixels may be chosen.
        shifted: a labelled test set under shift, nothing to train on.
        conditions: what a shifted set wants to know: ``"corruption"``, ``"severity"``.
    """

    origin: str = ""
    downloads: tuple[Download, ...] = ()
    sized: bool = False
    shifted: bool = False
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What is wanted of a test set under shift; see :func:`qact.shift.load_shifted`."""

    corruption: str | None = None
    severity: int | None = None
    size: int | None = None
    limit: int | None = None
    class_names: Sequence[str] | None = None


@dataclass(frozen=True)
class ShiftedSet:
    """Labelled test images: uint8 (N, C, H, W), int64 (N,); unknown ``class_names`` are empty."""

    name: str
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = ()


DATASETS = Registry("data set", DataSet, room="qact.datasets.sets")
register = DATASETS.register
entry = DATASETS.__getitem__
names = DATASETS.names
