"""Files from their public origin: resumed where they stopped, checked before they are used."""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from qact import checks
from qact.datasets.archives import extract
from qact.datasets.registry import DATASETS, Download
from qact.files import alone
from qact.registry import unknown

_CHUNK = 1 << 20
_TIMEOUT = 60  # seconds without a byte

Tell = Callable[[str, int, int | None], None]  # file, bytes so far, bytes in all if known


def digest(path: Path, algorithm: str) -> str:
    """Return the checksum of a file, read piece by piece."""
    found = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def fetch(url: str, path: Path, algorithm: str, checksum: str, tell: Tell | None = None) -> Path:
    """Download ``url`` to ``path`` unless it is there; go on with what an earlier call has left.

    The bytes gather in ``path`` + ``.part``; only a file with the right checksum gets its name.

    Args:
        url: address; the server need not support ranges.
        path: the file to be written.
        algorithm: ``"md5"`` or ``"sha256"``.
        checksum: what it must give.
        tell: called with (file name, bytes so far, bytes in all or None) as the download goes on.

    Returns:
        ``path``.

    Raises:
        ValueError: a file that is there, or what came, has another checksum. What came is removed,
            what was there stays.
        ConnectionError: there is no network, or the server refuses; the part stays.
    """
    if path.is_file():
        _check(path, path, url, algorithm, checksum)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        _receive(url, part, tell or (lambda *_: None))
    except (urllib.error.URLError, OSError) as error:
        kept = part.stat().st_size if part.is_file() else 0
        raise ConnectionError(
            f"could not download {path} from {url}: {checks.reason(error)}; {kept} bytes are kept "
            f"in {part.name}, the same call goes on from there (expected {algorithm} {checksum})"
        ) from error
    try:
        _check(part, path, url, algorithm, checksum)
    except ValueError:
        part.unlink()  # going on from wrong bytes would never end
        raise
    os.replace(part, path)
    return path


def _receive(url: str, part: Path, tell: Tell) -> None:
    """Append what is missing of ``url`` to ``part``."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "qact"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing is missing
            return
        raise
    with answer:
        resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        )
        have = have if resumed else 0
        length = answer.headers.get("Content-Length")
        whole = have + int(length) if length is not None else None
        with part.open("ab" if resumed else "wb") as file:
            while chunk := answer.read1(_CHUNK):  # what is there: a stall keeps all that came
                file.write(chunk)
                have += len(chunk)
                tell(part.name.removesuffix(".part"), have, whole)
    if whole is not None and have < whole:
        raise ConnectionError(f"the connection ended after {have} of {whole} bytes")


def _check(path: Path, name: Path, url: str, algorithm: str, checksum: str) -> None:
    found = digest(path, algorithm)
    if found != checksum:
        raise ValueError(
            f"{name} is truncated or altered: {algorithm} is {found} "
            f"({path.stat().st_size} bytes), expected {checksum}; origin: {url}"
        )


def downloadable() -> list[str]:
    """Return the names of the data sets with a public origin and known checksums."""
    return [name for name in DATASETS.names() if DATASETS[name].downloads]


def download(name: str, root: str | os.PathLike[str], tell: Tell | None = None) -> Path:
    """Download a public data set and extract its archives into ``root``.

    What is there already, with the right checksum, is not downloaded again; an archive is kept
    beside what came out of it.

    Args:
        name: one of :func:`downloadable`.
        root: folder, created if need be; give the same to :func:`qact.shift.load`.
        tell: see :func:`fetch`.

    Returns:
        The folder.

    Raises:
        ValueError: ``name`` is unknown, a checksum is wrong, or an archive is unsafe.
        ConnectionError: there is no network; the same call goes on later.
        BusyError: another process downloads into the folder.
    """
    if name not in downloadable():
        known = downloadable()
        raise unknown("data set", name, known, "with a public origin and a known checksum")
    folder = Path(root).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        for item in DATASETS[name].downloads:
            path = fetch(item.url, folder / item.file, item.algorithm, item.checksum, tell)
            if item.into is not None:
                _unpacked(item, path, folder / item.into)
    return folder


def _unpacked(item: Download, archive: Path, folder: Path) -> None:
    """Extract once: a mark beside the archive says that nothing is left to do."""
    mark = archive.with_name(f"{archive.name}.extracted")
    if mark.is_file() and mark.read_text() == item.checksum:
        return
    if shutil.disk_usage(archive.parent).free < archive.stat().st_size:
        raise OSError(f"no room to extract {archive} into {folder}")
    extract(archive, folder)
    mark.write_text(item.checksum)
