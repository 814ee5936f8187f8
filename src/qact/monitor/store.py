"""`Store`: windows in a folder of Parquet files, merged by SQL, safe against crashes.

A closed window is one file, written beside and renamed: it is there as a whole or not at all.
:mod:`qact.monitor.parquet` says what stands in it. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qact import atomic, checks
from qact.extras import needed
from qact.monitor import parquet
from qact.monitor.parquet import FORMAT, MERGE, Stored, StoreError
from qact.registry import unknown

if TYPE_CHECKING:
    from qact.monitor.reference import Reference, Verdict
    from qact.monitor.window import Window

MARKER = "qact-store.json"
LEVELS = {"window": 0, "minute": 60, "hour": 3600, "day": 86400}  # seconds


class Store:
    """A folder of windows; any number of processes may append to it at once.

    Args:
        folder: made if it is not there.
        create: False refuses a folder that is no store yet.

    Raises:
        StoreError: the folder holds something else.

    Example:
        >>> import tempfile
        >>> store = Store(tempfile.mkdtemp() + "/windows")
        >>> len(store.files())
        0
    """

    def __init__(self, folder: str | Path, *, create: bool = True) -> None:
        if not isinstance(folder, str | Path):
            raise TypeError(f"folder={checks.shown(folder)} must be the path of a folder")
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise StoreError(f"{self.folder} is no store of windows, but a file")
        marker = self.folder / MARKER
        if not marker.exists():
            # Another process may be making the same store: its files begin with the marker's.
            others = self.folder.exists() and any(
                MARKER not in path.name for path in self.folder.iterdir()
            )
            if (others or not create) and not marker.exists():
                raise StoreError(f"{self.folder} is no store of windows: it has no {MARKER}")
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic.write(marker, json.dumps({"format": FORMAT}).encode())
        try:
            found = json.loads(marker.read_bytes())["format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{marker} is damaged: {checks.reason(error)}") from error
        if found != FORMAT:
            raise StoreError(f"{self.folder} has the format {found!r}; this version reads {FORMAT}")

    def append(self, window: Window, verdict: Verdict | None = None) -> str:
        """Write a window; when this returns its name, it is safe on disk."""
        if not hasattr(window, "histograms"):
            raise TypeError(f"window={checks.shown(window)} must be a window of a monitor")
        return self._write(window, verdict, "window", ())

    def _write(self, window: Any, verdict: Any, level: str, sources: tuple[str, ...]) -> str:
        name = uuid.uuid4().hex
        content = parquet.packed(window, verdict, name, level, sources)
        atomic.write(self.folder / parquet.filed(content, name, level, window.start), content)
        return name

    def files(self) -> list[Path]:
        """The files that count, by time: what a coarser one has taken in does not."""
        return [path for path, _ in self._listed()[0]]

    def _listed(self) -> tuple[list[tuple[Path, str]], list[Path]]:
        """Files that count, with their names, and those that a coarser file has taken in."""
        while True:
            found = self._names()
            try:
                taken = {
                    n for p in found if not p.name.startswith("window") for n in parquet.sources(p)
                }
            except FileNotFoundError:
                continue  # somebody is merging; the coarser file is there now
            # A merge writes before it removes: two equal listings have missed nothing.
            if found == self._names():
                break
        named = [(path, parquet.named(path)) for path in found]
        return [one for one in named if one[1] not in taken], [p for p, n in named if n in taken]

    def _names(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"), key=lambda p: p.name.partition("-")[2])

    def read(self, **chosen: Any) -> list[Stored]:
        """Windows by time: ``since``, ``until`` (seconds or datetimes), ``version``, ``machine``.

        Raises:
            StoreError: a file is damaged, or foreign.
        """
        choose = _Chosen(**chosen)
        while True:
            try:
                found = filter(choose, (Stored(parquet.table(path)) for path in self.files()))
                return sorted(found, key=lambda one: (one.start, one.name))
            except FileNotFoundError:  # merged or swept since it was listed
                continue

    def newest(self) -> Iterator[Stored]:
        """Windows from the newest on, read as they are asked for.

        Raises:
            StoreError: a file is damaged, or foreign.
            FileNotFoundError: somebody has merged since the first one was asked for; begin again.
        """
        return (Stored(parquet.table(path)) for path in reversed(self.files()))

    def windows(self, **chosen: Any) -> list[Window]:
        """As :meth:`read`, the windows alone."""
        return [one.window for one in self.read(**chosen)]

    def total(self, **chosen: Any) -> Window:
        """The chosen windows as one, merged by SQL in DuckDB: the bits of a merge in memory.

        Raises:
            StoreError: nothing was chosen, windows of several models were, or a file is damaged.
        """
        with needed("merging by SQL", "monitor"):
            import duckdb
            import pyarrow as pa

        windows = self.read(**chosen)
        models = {one.model for one in windows}
        if len(models) != 1:
            what = f"windows of {len(models)} models" if models else "no windows"
            raise StoreError(f"{self.folder} has {what} in that choice; one is needed")
        tables = [one.table for one in windows]
        with duckdb.connect() as connection:
            connection.register("rows", pa.concat_tables(tables))
            found = connection.execute(MERGE).fetchnumpy()
        return parquet.merged(tables, found)

    def compact(self, level: str = "hour", *, before: float | None = None) -> int:
        """Merge what is finer than ``level`` and lies in full periods of it; how many files went.

        Periods are UTC's. Versions, machines and models stay apart. Nothing is lost or counted
        twice if the process is killed: the coarser file names what it has taken in.

        Args:
            level: ``"minute"``, ``"hour"`` or ``"day"``.
            before: seconds since 1970; periods that end later are left, now by default.
        """
        if level not in LEVELS or level == "window":
            raise unknown("level", level, [name for name in LEVELS if name != "window"])
        seconds, limit = LEVELS[level], time.time() if before is None else before
        with self._alone():
            self._sweep()
            groups: dict[tuple, list[Stored]] = {}
            for one in self.read():
                period = one.start // seconds
                if LEVELS[one.level] < seconds and (period + 1) * seconds <= limit:
                    key = (period, one.model, one.version, one.machine)
                    groups.setdefault(key, []).append(one)
            for group in groups.values():
                merged = group[0].window
                for one in group[1:]:
                    merged = merged + one.window
                self._write(merged, None, level, tuple(one.name for one in group))
            return self._sweep()

    def retain(self, seconds: float, *, now: float | None = None) -> int:
        """Remove windows that ended more than so many seconds ago; how many files went."""
        checks.number("seconds", seconds, "a positive number", 0)
        limit = (time.time() if now is None else now) - seconds
        with self._alone():
            self._sweep()
            old = [path for path in self.files() if Stored(parquet.table(path)).end < limit]
            for path in old:
                path.unlink()
        return len(old)

    def _sweep(self) -> int:
        """Remove what has been taken in, and what killed writers left behind an hour ago."""
        taken = self._listed()[1]
        for path in taken:
            path.unlink(missing_ok=True)
        for path in self.folder.glob(".*.parquet.*"):
            if time.time() - path.stat().st_mtime > 3600:
                path.unlink(missing_ok=True)
        return len(taken)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One merge at a time; writers and readers go on."""
        try:
            import fcntl
        except ImportError:  # not on Windows; there the user has to take care
            yield
            return
        with open(self.folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def keep_reference(self, reference: Reference, version: str = "") -> None:
        """Keep the reference of a version beside its windows, for reports."""
        reference.save(self._reference(parquet.digest(reference.channels), version))

    def reference(self, model: str, version: str = "") -> Reference | None:
        """The reference of a version, if one was kept."""
        from qact.monitor.reference import Reference

        path = self._reference(model, version)
        return Reference.load(path) if path.exists() else None

    def _reference(self, model: str, version: str) -> Path:
        word = hashlib.blake2b(version.encode(), digest_size=4).hexdigest()
        return self.folder / f"reference-{model}-{word}.npz"


class _Chosen:
    """Whether a window is asked for."""

    def __init__(
        self,
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        version: str | None = None,
        machine: str | None = None,
        level: str | None = None,
    ) -> None:
        self.since, self.until = _seconds("since", since), _seconds("until", until)
        for name, word in (("version", version), ("machine", machine)):
            if not isinstance(word, str | None):
                raise TypeError(f"{name}={checks.shown(word)} must be a string")
        if level is not None:
            checks.choice("level", level, tuple(LEVELS))
        self.equal = {"version": version, "machine": machine}
        self.level = level

    def __call__(self, one: Stored) -> bool:
        return (
            (self.since is None or one.start >= self.since)
            and (self.until is None or one.start < self.until)
            and all(want in (None, getattr(one, key)) for key, want in self.equal.items())
            and self.level in (None, one.level)
        )


def _seconds(name: str, moment: float | datetime | None) -> float | None:
    if isinstance(moment, datetime):
        zone = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        return zone.timestamp()
    valid = "seconds since 1970, or a datetime"
    return None if moment is None else checks.number(name, moment, valid, -math.inf)
