"""Engines by the scheme of their address, and the one place that makes an address a cluster."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from qact.integrations.cluster.base import Cluster
from qact.integrations.cluster.task import ClusterError
from qact.registry import Entry, Registry

PATIENCE = 10.0  # seconds until a scheduler that does not answer is called absent


class _NoEngineError(ClusterError, ValueError):
    """A scheme that is not known."""


@dataclass(frozen=True)
class Engine(Entry):
    """A kind of cluster.

    Args:
        form: what its addresses look like.
    """

    form: str = ""


ENGINES = Registry("engine", Engine, room="qact.integrations.cluster", error=_NoEngineError)
register, names, entry = ENGINES.register, ENGINES.names, ENGINES.__getitem__


def connect(address: Any) -> Cluster:
    """The cluster at an address: a context manager with :meth:`Cluster.run`.

    Args:
        address: ``"here"``, ``"processes:4"``, ``"dask://HOST:PORT"`` of a Dask scheduler,
            ``"ray://HOST:PORT"`` of a Ray client server, ``"ray://auto"`` for the Ray cluster that
            this machine is part of; or a ``distributed.Client``; a cluster is returned as it is.

    Raises:
        ClusterError: no such engine, nobody answers, or workers have other versions of qact, torch,
            numpy or Python.
        MissingExtraError: the engine's package is not installed.

    Example:
        >>> with connect("here") as cluster:
        ...     list(cluster.in_order(len, ["a", "bcd"]))
        [1, 3]
        >>> connect("dusk://10.0.0.7:8786")
        Traceback (most recent call last):
        qact...NoEngineError: unknown engine 'dusk'; did you mean 'dask'? ...
    """
    if isinstance(address, Cluster):
        return address
    if type(address).__name__ == "Client" and type(address).__module__.startswith("distributed."):
        return ENGINES["dask"].make(address)
    if not isinstance(address, str):
        forms = ", ".join(ENGINES[name].form for name in ENGINES.names())
        raise ClusterError(f"a cluster is one of {forms}, or a distributed.Client; got {address!r}")
    scheme, _, rest = address.partition(":")
    return ENGINES[scheme].make(rest.removeprefix("//"))


@contextmanager
def using(on: Any) -> Iterator[Cluster]:
    """The cluster at an address for a block; one that the caller has connected to stays open."""
    if isinstance(on, Cluster):
        yield on
    else:
        with connect(on) as cluster:
            yield cluster


def reached(engine: str, address: str, start: str) -> tuple[str, int]:
    """Host and port of an address that somebody listens at.

    Raises:
        ClusterError: it is none, or nobody does; ``start`` says what to type.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"{engine} needs HOST:PORT, got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"nobody answers at {engine}://{address} ({error}); start a cluster with `{start}`"
        ) from error
    return host, int(port)
