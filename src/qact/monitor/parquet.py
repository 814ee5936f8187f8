"""A window as rows of a table, one per channel of a signal, and back to the bit.

Masses are integers and moments multiples of powers of two, so sums of them are exact in any order,
in memory and in a database. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qact.extras import needed

if TYPE_CHECKING:
    from qact.monitor.reference import Verdict
    from qact.monitor.window import Window

FORMAT = "qact.monitor.store/1"
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
    "calls": "int64",  # in which the seen ones came
    "alike": "double",  # correlation of images of one call, and variance between images in terms of
    "spread": "double",  # the reference's; null where it is not known, or merged
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


class Stored:
    """A window of the store; what all of its rows share (see ``SCHEMA``) are its attributes.

    Args:
        table: its rows. Contexts are made of their cells whenever ``window`` is asked for, since
            many windows of a wide model do not fit into memory.
    """

    def __init__(self, table: Any) -> None:
        self.table = table
        self.row = table.slice(0, 1).to_pylist()[0]

    def __getattr__(self, name: str) -> Any:
        if name == "row" or name not in self.row:  # "row" itself is asked for by a copy
            raise AttributeError(name)
        return self.row[name]

    @property
    def name(self) -> str:
        """The window's unique name."""
        return self.row["window"]

    @property
    def window(self) -> Window:
        """The window itself, to the bit."""
        lengths = _lengths(self.table)
        columns = ("place", "channel", "exponent", "first")
        cells = {name: np.repeat(self.table[name].to_numpy(), lengths) for name in columns}
        cells["cell"] = cells.pop("first") + _steps(lengths)
        cells |= {name: _flat(self.table[name]) for name in ("mass", "moment")}
        return merged([self.table], cells)

    @cached_property
    def distances(self) -> dict[str, float | None]:
        """By signal, in order; None where it was not tested, or merged."""
        return self._by_signal("distance")

    @cached_property
    def p_values(self) -> dict[str, float | None]:
        """As the distances."""
        return self._by_signal("p_value")

    def _by_signal(self, column: str) -> dict[str, float | None]:
        rows = self.table.select(["signal", column]).to_pylist()
        return {row["signal"]: row[column] for row in rows}

    @property
    def verdict(self) -> Verdict | None:
        """All that its test said; None where it was not tested, or merged."""
        from qact.monitor.reference import Verdict

        if self.p is None:
            return None
        distances, p_values = (
            {name: value for name, value in part.items() if value is not None}
            for part in (self.distances, self.p_values)
        )
        broken = self.broken / max(self.images + self.broken, 1)
        batch = self.seen / self.calls if self.calls else None
        company = (batch, self.alike, self.spread)
        return Verdict(self.images, distances, p_values, self.p, broken, *company)

    def light(self) -> Stored:
        """Without its cells, and so without ``window``."""
        return Stored(self.table.drop_columns(["mass", "moment"]))


def _schema() -> Any:
    import pyarrow as pa

    lists = {"list<int64>": pa.list_(pa.int64()), "list<double>": pa.list_(pa.float64())}
    names = {"string": pa.string(), "double": pa.float64(), "int64": pa.int64()}
    kinds = {**lists, **names, "int32": pa.int32()}
    return pa.schema([(name, kinds[kind]) for name, kind in SCHEMA.items()])


def digest(signals: Mapping[str, int]) -> str:
    """Of the names and channels of signals: tells windows of different models apart."""
    return _digest(json.dumps(list(signals.items())).encode())


def packed(window: Any, verdict: Any, name: str, level: str, sources: Sequence[str]) -> bytes:
    """A Parquet file of one window, which says what it was merged from."""
    with needed("a store of windows", "monitor"):
        import pyarrow as pa
        from pyarrow import parquet

    schema = _schema().with_metadata({"qact": json.dumps([FORMAT, list(sources)])})
    buffer = io.BytesIO()
    columns = _columns(window, verdict, {"window": name, "level": level})
    parquet.write_table(pa.table(columns, schema), buffer, compression="zstd")
    return buffer.getvalue()


def _columns(window: Any, verdict: Any, fixed: dict[str, Any]) -> dict[str, list[Any]]:
    shared = {
        **fixed,
        **{n: getattr(window, n) for n in ("version", "machine", "start", "end")},
        **{n: getattr(window, n) for n in ("images", "seen", "broken", "calls")},
        **{n: getattr(verdict, n, None) for n in ("alike", "spread")},
        "model": digest({n: len(h.mass) for n, h in window.histograms.items()}),
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


def filed(content: bytes, name: str, level: str, start: float) -> str:
    """What the file of a window is called: sorted by time, and with a digest of its content."""
    return f"{level}-{int(start * 1e6):020d}-{name}-{_digest(content)}.parquet"


def named(path: Path) -> str:
    """The name of the window in a file.

    Raises:
        StoreError: no window is filed like that.
    """
    parts = path.stem.rsplit("-", 2)
    if len(parts) < 3:
        raise StoreError(f"{path} is no window of this store; move it away")
    return parts[1]


def table(path: Path) -> Any:
    """The rows of a file.

    Raises:
        StoreError: it is damaged, or foreign. FileNotFoundError: it is gone.
    """
    with needed("a store of windows", "monitor"):
        import pyarrow as pa
        from pyarrow import parquet

    found = parquet.read_table(pa.BufferReader(_sound(path)))
    if found.schema.remove_metadata() != _schema() or not len(found):
        raise StoreError(f"{path} has other columns than a window has; move it away")
    return found


def sources(path: Path) -> list[str]:
    """Names of the windows that a file was merged from.

    Raises:
        StoreError: it is damaged, or foreign. FileNotFoundError: it is gone.
    """
    with needed("a store of windows", "monitor"):
        import pyarrow as pa
        from pyarrow import parquet

    return json.loads(parquet.read_schema(pa.BufferReader(_sound(path))).metadata[b"qact"])[1]


def _sound(path: Path) -> bytes:
    """The content of a file, if it is what was written: Parquet itself notices few flipped bits."""
    named(path)
    content = path.read_bytes()
    if path.stem.rpartition("-")[2] != _digest(content):
        raise StoreError(f"{path} is damaged: its content is not what was written; move it away")
    return content


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _lengths(table: Any) -> np.ndarray:
    import pyarrow.compute as pc

    return pc.list_value_length(table["mass"]).to_numpy().astype(np.int64)


def _steps(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... within each of consecutive runs."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)


def _flat(column: Any) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False)


def merged(tables: list[Any], cells: Mapping[str, Any]) -> Window:
    """One window of cells, each channel's on one grid, coarsened until it has room."""
    from qact.monitor.window import Window, from_cells

    heads = [Stored(table) for table in tables]
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
    images, seen, broken, calls = (
        sum(getattr(head, name) for head in heads) for name in ("images", "seen", "broken", "calls")
    )
    start, end = min(head.start for head in heads), max(head.end for head in heads)
    version, machine = (_words(heads, name) for name in ("version", "machine"))
    return Window(histograms, images, seen, broken, start, end, version, machine, calls)


def _grids(tables: list[Any]) -> list[dict[str, Any]]:
    return tables[0].select(["signal", "channel", "exponent", "first"]).to_pylist()


def _words(heads: list[Stored], name: str) -> str:
    return ",".join(sorted({w for head in heads for w in getattr(head, name).split(",")} - {""}))
