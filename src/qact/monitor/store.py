"""`Store`: windows as rows of Parquet files, merged by SQL, safe against crashes.

A closed window is one file, written beside and renamed: it is there as a whole or not at all. A row
is one channel of one signal; :data:`SCHEMA` says what stands in it. Masses are integers and moments
multiples of powers of two, so sums of them are exact in any order, in memory and in a database.

Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qact import atomic, checks
from qact.extras import needed
from qact.registry import unknown

if TYPE_CHECKING:
    from qact.monitor.reference import Reference, Verdict
    from qact.monitor.window import Window

FORMAT, MARKER = "qact.monitor.store/1", "qact-store.json"
LEVELS = {"window": 0, "minute": 60, "hour": 3600, "day": 86400}  # seconds
SCHEMA = {
    "window": "string",  # unique name of the window
    "level": "string",  # one of LEVELS: what it was merged to
    "model": "string",  # digest of the names and channels of the signals
    "version": "string",
    "machine": "string",
    "start": "double",  # seconds since 1970, UTC
    "end": "double",
    "images": "int64",  # sampled and counted
    "seen": "int64",  # passed by
    "broken": "int64",  # sampled, but not finite
    "p": "double",  # of the whole window; null where it was not tested, or merged
    "signal": "string",
    "place": "int32",  # order of the signals
    "distance": "double",  # of the signal to its reference, and how often a sound one is as far
    "p_value": "double",
    "channel": "int32",
    "exponent": "int32",  # cells are 2^exponent wide
    "first": "int64",  # the first cell, [first, first + 1) 2^exponent
    "mass": "list<int64>",  # values in each cell from there on
    "moment": "list<double>",  # sum of their places in it, each in [0, 1]
}

# Cells on the coarsest grid of their channel: what a coarser cell gets is exact in float64.
MERGE = """
WITH cells AS (
  SELECT signal, place, channel, exponent, unnest(mass) AS mass, unnest(moment) AS moment,
         first + unnest(range(len(mass))) AS cell
  FROM rows),
joint AS (SELECT signal, channel, max(exponent) AS wide FROM cells WHERE mass > 0 GROUP BY ALL),
moved AS (
  SELECT place, signal, channel, wide, mass, moment, cell,
         CAST(floor(cell / power(2, wide - exponent)) AS BIGINT) AS target,
         power(2, wide - exponent) AS size
  FROM cells JOIN joint USING (signal, channel) WHERE mass > 0)
SELECT place, signal, channel, wide AS exponent, target AS cell, CAST(sum(mass) AS BIGINT) AS mass,
       sum((mass * (cell - target * size) + moment) / size) AS moment
FROM moved GROUP BY ALL ORDER BY place, channel, cell
"""


class StoreError(ValueError):
    """A folder or file is no store of windows, or is damaged."""


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
        self.folder = Path(folder)
        marker = self.folder / MARKER
        if not marker.exists():
            if not create or (self.folder.exists() and any(self.folder.iterdir())):
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
        return self._write(window, verdict, "window", ())

    def _write(self, window: Any, verdict: Any, level: str, sources: tuple[str, ...]) -> str:
        with needed("a store of windows", "monitor"):
            import pyarrow as pa
            from pyarrow import parquet

        name = uuid.uuid4().hex
        columns = _columns(window, verdict, {"window": name, "level": level})
        schema = _schema().with_metadata({"qact": json.dumps([FORMAT, list(sources)])})
        buffer = io.BytesIO()
        parquet.write_table(pa.table(columns, schema), buffer, compression="zstd")
        path = self.folder / f"{level}-{int(window.start * 1e6):020d}-{name}.parquet"
        atomic.write(path, buffer.getvalue())
        return name

    def files(self) -> list[Path]:
        """The files that count, by time: what a coarser one has taken in does not."""
        return [path for path, _ in self._listed()[0]]

    def _listed(self) -> tuple[list[tuple[Path, str]], list[Path]]:
        """Files that count, with their names, and those that a coarser file has taken in."""
        while True:
            found = self._names()
            try:
                taken = {n for p in found if not p.name.startswith("window") for n in _sources(p)}
            except FileNotFoundError:
                continue  # somebody is merging; the coarser file is there now
            # A merge writes before it removes: two equal listings have missed nothing.
            if found == self._names():
                break
        named = [(path, path.stem.rpartition("-")[2]) for path in found]
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
                tables = [_table(path) for path in self.files()]
                break
            except FileNotFoundError:
                continue
        found = [_stored(table) for table in tables]
        return sorted(filter(choose, found), key=lambda one: (one.window.start, one.name))

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

        choose = _Chosen(**chosen)
        tables = [t for t in map(_table, self.files()) if choose(_Head(t))]
        models = {_Head(table).model for table in tables}
        if len(models) != 1:
            what = f"windows of {len(models)} models" if models else "no windows"
            raise StoreError(f"{self.folder} has {what} in that choice; one is needed")
        with duckdb.connect() as connection:
            connection.register("rows", pa.concat_tables(tables))
            found = connection.execute(MERGE).fetchnumpy()
        return _merged(tables, found)

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
                period = one.window.start // seconds
                if LEVELS[one.level] < seconds and (period + 1) * seconds <= limit:
                    key = (period, one.model, one.window.version, one.window.machine)
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
            old = [path for path in self.files() if _Head(_table(path)).end < limit]
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
        reference.save(self._reference(_digest(reference.channels), version))

    def reference(self, model: str, version: str = "") -> Reference | None:
        """The reference of a version, if one was kept."""
        from qact.monitor.reference import Reference

        path = self._reference(model, version)
        return Reference.load(path) if path.exists() else None

    def _reference(self, model: str, version: str) -> Path:
        word = hashlib.blake2b(version.encode(), digest_size=4).hexdigest()
        return self.folder / f"reference-{model}-{word}.npz"


@dataclass(frozen=True)
class Stored:
    """A window of the store: its name, level and model, and what its test said."""

    name: str
    level: str
    model: str
    window: Window
    p: float | None
    distances: Mapping[str, float | None] = field(default_factory=dict)
    p_values: Mapping[str, float | None] = field(default_factory=dict)


class _Head:
    """What all rows of a window share."""

    def __init__(self, table: Any) -> None:
        self.row = table.slice(0, 1).to_pylist()[0]
        self.window = self

    def __getattr__(self, name: str) -> Any:
        return self.row[name]


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
        self.since, self.until = _seconds(since), _seconds(until)
        self.equal = {"version": version, "machine": machine}
        self.level = level

    def __call__(self, one: Any) -> bool:
        window = one.window
        return (
            (self.since is None or window.start >= self.since)
            and (self.until is None or window.start < self.until)
            and all(want in (None, getattr(window, key)) for key, want in self.equal.items())
            and self.level in (None, one.level)
        )


def _seconds(moment: float | datetime | None) -> float | None:
    if isinstance(moment, datetime):
        zone = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        return zone.timestamp()
    return moment


def _schema() -> Any:
    import pyarrow as pa

    lists = {"list<int64>": pa.list_(pa.int64()), "list<double>": pa.list_(pa.float64())}
    names = {"string": pa.string(), "double": pa.float64(), "int64": pa.int64()}
    kinds = {**lists, **names, "int32": pa.int32()}
    return pa.schema([(name, kinds[kind]) for name, kind in SCHEMA.items()])


def _digest(signals: Mapping[str, int]) -> str:
    text = json.dumps(list(signals.items()))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _columns(window: Any, verdict: Any, fixed: dict[str, Any]) -> dict[str, list[Any]]:
    shared = {
        **fixed,
        **{n: getattr(window, n) for n in ("version", "machine", "start", "end")},
        **{n: getattr(window, n) for n in ("images", "seen", "broken")},
        "model": _digest({n: len(h.mass) for n, h in window.histograms.items()}),
        "p": None if verdict is None else verdict.p,
    }
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA}
    for place, (signal, histogram) in enumerate(window.histograms.items()):
        arrays = [np.asarray(a) for a in (histogram.mass, histogram.moment)]
        exponents, offsets = np.asarray(histogram.grid.exponent), np.asarray(histogram.grid.offset)
        for channel, (mass, moment) in enumerate(zip(*arrays, strict=True)):
            full = np.flatnonzero(mass)
            low, high = (full[0], full[-1] + 1) if len(full) else (0, 0)
            row = {
                **shared,
                "signal": signal,
                "place": place,
                "distance": None if verdict is None else verdict.distances[signal],
                "p_value": None if verdict is None else verdict.p_values[signal],
                "channel": channel,
                "exponent": int(exponents[channel]),
                "first": int(offsets[channel] + low),
                "mass": mass[low:high].astype(np.int64),
                "moment": moment[low:high].astype(np.float64),
            }
            for name, value in row.items():
                columns[name].append(value)
    return columns


def _table(path: Path) -> Any:
    with needed("a store of windows", "monitor"):
        import pyarrow as pa
        from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{path} is damaged: {checks.reason(error)}; move it away") from error
    if table.schema.remove_metadata() != _schema() or not len(table):
        raise StoreError(f"{path} has other columns than a window has; move it away")
    return table


def _sources(path: Path) -> list[str]:
    with needed("a store of windows", "monitor"):
        import pyarrow as pa
        from pyarrow import parquet

    try:
        _, sources = json.loads(parquet.read_schema(path).metadata[b"qact"])
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged: {checks.reason(error)}; move it away") from error
    return sources


def _stored(table: Any) -> Stored:
    head = _Head(table)
    cells = {
        "place": np.repeat(table["place"].to_numpy(), _lengths(table)),
        "channel": np.repeat(table["channel"].to_numpy(), _lengths(table)),
        "exponent": np.repeat(table["exponent"].to_numpy(), _lengths(table)),
        "cell": np.repeat(table["first"].to_numpy(), _lengths(table)) + _steps(_lengths(table)),
        "mass": _flat(table["mass"]),
        "moment": _flat(table["moment"]),
    }
    rows = {r["signal"]: r for r in table.select(["signal", "distance", "p_value"]).to_pylist()}
    return Stored(
        head.row["window"],
        head.level,
        head.model,
        _merged([table], cells),
        head.p,
        {name: row["distance"] for name, row in rows.items()},
        {name: row["p_value"] for name, row in rows.items()},
    )


def _lengths(table: Any) -> np.ndarray:
    import pyarrow.compute as pc

    return pc.list_value_length(table["mass"]).to_numpy().astype(np.int64)


def _steps(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... within each of consecutive runs."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)


def _flat(column: Any) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False)


def _merged(tables: list[Any], cells: Mapping[str, Any]) -> Window:
    """One window of rows of cells, each channel's on one grid, coarsened until it has room."""
    from qact.monitor.window import Window, from_cells

    heads = [_Head(table) for table in tables]
    channels: dict[str, int] = {}
    for row in tables[0].select(["signal", "channel"]).to_pylist():
        channels[row["signal"]] = max(channels.get(row["signal"], 0), row["channel"] + 1)
    histograms = {}
    grids = {(r["signal"], r["channel"]): (r["exponent"], r["first"]) for r in _grids(tables)}
    for place, (signal, count) in enumerate(channels.items()):
        here = np.asarray(cells["place"]) == place
        part = {
            k: np.asarray(cells[k])[here] for k in ("channel", "exponent", "cell", "mass", "moment")
        }
        empty = [grids[signal, channel] for channel in range(count)]
        histograms[signal] = from_cells(count, empty, **part)
    images, seen, broken = (
        sum(getattr(head, name) for head in heads) for name in ("images", "seen", "broken")
    )
    start, end = min(head.start for head in heads), max(head.end for head in heads)
    version, machine = (_words(heads, name) for name in ("version", "machine"))
    return Window(histograms, images, seen, broken, start, end, version, machine)


def _grids(tables: list[Any]) -> list[dict[str, Any]]:
    return tables[0].select(["signal", "channel", "exponent", "first"]).to_pylist()


def _words(heads: list[_Head], name: str) -> str:
    return ",".join(sorted({w for head in heads for w in getattr(head, name).split(",")} - {""}))
