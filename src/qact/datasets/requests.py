"""What the readers of test sets under shift share: folders, limits, image files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qact.datasets.arrays import part
from qact.datasets.folders import read_folder
from qact.datasets.formats import Arrays
from qact.datasets.registry import Download, Request, ShiftedSet


def found(above: Path, folders: tuple[str, ...]) -> Path:
    """Return the first of the folders that archives and users leave, the first name if none is."""
    here = [above / folder for folder in folders if (above / folder).is_dir()]
    return here[0] if here else above / folders[0]


def shifted(name: str, arrays: Arrays, limit: int | None) -> ShiftedSet:
    """Return arrays as a test set, at most ``limit`` images of it, spread evenly."""
    count = len(arrays[1])
    if limit is not None and limit < count:
        index = [i * count // limit for i in range(limit)]
        arrays = arrays[0][index], arrays[1][index]
    return ShiftedSet(name, *part(arrays))


@dataclass(frozen=True)
class ImageFolders:
    """Reads ``<class>/<image>``, under ``<corruption>/<severity>`` if the set has corruptions."""

    name: str
    folders: tuple[str, ...]
    count: int  # images of a complete set
    side: int
    origin: str
    downloads: tuple[Download, ...] = ()

    def __call__(self, root: Path, request: Request) -> ShiftedSet:
        """Return the images, resized to the side that is asked for, or the usual one."""
        sums = ", ".join(f"{i.file} has {i.algorithm} {i.checksum}" for i in self.downloads)
        said = f"expected {self.count} images{f' ({sums})' if sums else ''}; origin: {self.origin}"
        here = self._here(found(root, self.folders), request)
        if not here.is_dir():
            raise FileNotFoundError(f"{here} is missing; {said}")
        side = request.size or self.side
        try:
            arrays, classes = read_folder(here, side, request.limit, request.class_names)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; {said}") from error
        if request.limit is None and len(arrays[1]) != self.count:
            raise ValueError(f"{here} holds {len(arrays[1])} images, {said}")
        return ShiftedSet(self.name, *part(arrays), tuple(classes))

    def _here(self, folder: Path, request: Request) -> Path:
        if request.corruption is None:
            return folder
        # ImageNet-C's archives may be kept in folders of their own, noise/gaussian_noise/...
        nested = [folder, *(p.parent for p in sorted(folder.glob(f"*/{request.corruption}")))]
        whole = [p for p in nested if (p / request.corruption).is_dir()] or [folder]
        return whole[0] / request.corruption / str(request.severity)
