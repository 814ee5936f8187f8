"""Tasks on the workers of a Dask scheduler, through `distributed.Client`."""

from __future__ import annotations

import pickle
import uuid
import warnings
from importlib import import_module
from typing import Any

from qact.extras import needed
from qact.integrations.cluster.base import Heard, Remote, killed
from qact.integrations.cluster.registry import PATIENCE, reached, register
from qact.integrations.cluster.task import ClusterError, Job, differs, versions

START = "dask scheduler; dask worker HOST:PORT --nthreads 1"


@register("dask", paper="Rocklin 2015", form="dask://HOST:PORT")
class Dask(Remote):
    """A Dask cluster: by the address of its scheduler, or a client that stays the caller's."""

    def __init__(self, address: Any) -> None:
        with needed("dask://", "dask"):
            import distributed
        self._own = isinstance(address, str)
        if self._own:
            host, port = reached("dask", address, START)
            try:
                address = distributed.Client(f"tcp://{host}:{port}", timeout=PATIENCE)
            except (OSError, ValueError) as error:  # something else listens there
                raise ClusterError(f"no Dask scheduler answers at {host}:{port}: {error}") from None
        self._client = address
        self.name = f"dask://{address.scheduler.address.partition('://')[2]}"
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        if not self.room():
            raise ClusterError(f"{self.name} has no workers; start some with `{START}`")
        # Asked by a function of the standard library: where qact is missing, ours would not load.
        found = self._client.run(import_module, "qact", on_error="return")
        lacking = [who for who, what in found.items() if isinstance(what, ImportError)]
        if lacking:
            raise ClusterError(f"qact is not installed on worker {lacking[0]}: install it there")
        for who, outcome in self._client.run(differs, versions()).items():
            if outcome:
                raise ClusterError(outcome.replace("a worker", f"worker {who}", 1))

    def close(self) -> None:
        """Leave the scheduler, if it was found by its address."""
        if self._own:
            self._client.close()

    def room(self) -> int:
        """Two per thread, so that none waits for its next task."""
        return 2 * sum(self._client.nthreads().values())

    def _begin(self, job: Job, heard: Heard, gpus: int) -> None:
        self._topic = f"qact-{uuid.uuid4().hex}"
        # Pickles, as are the results that come from the same scheduler: whoever connects trusts it.
        self._client.subscribe_topic(self._topic, lambda event: heard(*pickle.loads(event[1])))
        # Bytes, since a worker sends on what it holds, and a model at work is not to be pickled.
        # The result of a task, and not scattered: what is lost with its worker is made again.
        from distributed.protocol.pickle import dumps

        self._job = self._submitted(_same, dumps(job), key=f"{self._topic}-job")

    def _submit(self, index: int, task: Any) -> Any:
        key = f"{self._topic}-{index}"
        return self._submitted(_on_worker, self._job, index, task, self._topic, key=key)

    def _submitted(self, *call: Any, key: str) -> Any:
        with warnings.catch_warnings():  # a model is a large graph
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            return self._client.submit(*call, key=key, pure=False)

    def _outcome(self, future: Any) -> Any:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        try:
            return future.result()
        except KilledWorker as error:
            raise killed(error.allowed_failures + 1) from error
        except (FutureCancelledError, OSError) as error:
            raise ClusterError(f"{self.name} has gone: {error}") from error
        except Exception as error:  # before or after the function: it could not be read, say
            raise ClusterError(f"{self.name}: {type(error).__name__}: {error}") from error

    def _end(self, futures: list[Any]) -> None:
        self._client.unsubscribe_topic(self._topic)
        self._client.cancel([*futures, self._job])


def _same(job: bytes) -> bytes:
    return job


_held: tuple[str, Job] | None = None  # the last job of a worker, by its topic


def _on_worker(job: bytes, index: int, task: Any, topic: str) -> Any:
    global _held
    from distributed import get_worker
    from distributed.protocol.pickle import loads

    if _held is None or _held[0] != topic:
        _held = topic, loads(job)
    worker = get_worker()
    return _held[1](task, lambda message: worker.log_event(topic, pickle.dumps((index, message))))
