"""Archives, extracted without a way out of the folder that was meant."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from qact import checks


def extract(archive: Path, folder: Path) -> None:
    """Extract plain files and folders of a ``.tar``, ``.tar.gz`` or ``.zip``.

    Links, devices and names that lead out of ``folder`` are refused before anything is written.

    Raises:
        ValueError: such a member, a damaged archive, or another kind of file.

    Example:
        >>> import tempfile, zipfile
        >>> root = Path(tempfile.mkdtemp())
        >>> with zipfile.ZipFile(root / "a.zip", "w") as file:
        ...     file.writestr("../out.txt", "x")
        >>> extract(root / "a.zip", root / "in")
        Traceback (most recent call last):
        ValueError: .../a.zip holds '../out.txt', which leads out of the folder
    """
    try:
        if zipfile.is_zipfile(archive):
            _zip(archive, folder)
        elif tarfile.is_tarfile(archive):
            _tar(archive, folder)
        else:
            raise ValueError(f"{archive} is neither a .tar nor a .zip file")
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{archive} is damaged: {checks.reason(error)}") from error


def _tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as file:
        members = file.getmembers()
        for member in members:
            _check(archive, member.name, member.isfile() or member.isdir())
        for member in members:
            source = file.extractfile(member) if member.isfile() else None
            _write(folder / member.name, source)


def _zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            _check(archive, info.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
        for info in file.infolist():
            _write(folder / info.filename, None if info.is_dir() else file.open(info))


def _check(archive: Path, name: str, plain: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
        raise ValueError(f"{archive} holds {name!r}, which leads out of the folder")
    if not plain:
        raise ValueError(f"{archive} holds {name!r}, which is a link or a device")


def _write(path: Path, source: IO[bytes] | None) -> None:
    if source is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under another name first: a file that has its own name is whole.
    part = path.with_name(f"{path.name}.part")
    with source, part.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    os.replace(part, path)
