"""A function of one value as a function of data frames, for Spark's `mapInPandas`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from qact.integrations.cluster.task import Failed, Job


def in_pandas(
    function: Callable[[Any], Any], column: str = "shard", result: str = "result"
) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """``function`` of every value of a column, as ``DataFrame.mapInPandas`` wants it.

    A row is a task: its result does not depend on partitions or on the size of Arrow's batches. As
    elsewhere it runs with one thread, and only where qact and torch have the caller's versions.

    Args:
        function: of one value; it travels with what is bound in it.
        column: where the values are.
        result: the column added for what it returns: bytes for ``binary``, text for ``string``.

    Example:
        >>> import pandas  # doctest: +SKIP
        >>> frame = pandas.DataFrame({"shard": ["a", "bcd"]})  # doctest: +SKIP
        >>> next(in_pandas(len)(iter([frame]))).result.tolist()  # doctest: +SKIP
        [1, 3]
    """
    return partial(_mapped, Job(function), column, result)


def _mapped(job: Job, column: str, result: str, frames: Iterator[Any]) -> Iterator[Any]:
    for frame in frames:
        yield frame.assign(**{result: [_one(job, value) for value in frame[column]]})


def _one(job: Job, value: Any) -> Any:
    found = job(value, lambda message: None)
    if isinstance(found, Failed):
        raise found.error
    return found
