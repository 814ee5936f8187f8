"""Tasks on a Ray cluster, through `ray.remote`."""

from __future__ import annotations

import threading
from contextlib import suppress
from importlib import import_module
from typing import Any

from qact.extras import needed
from qact.integrations.cluster.base import RETRIES, Heard, Remote, killed
from qact.integrations.cluster.registry import reached, register
from qact.integrations.cluster.task import ClusterError, Job, differs, versions

START = "ray start --head --ray-client-server-port 10001"


@register("ray", paper="Moritz et al. 2018, arXiv 1712.05889", form="ray://HOST:PORT or ray://auto")
class Ray(Remote):
    """A Ray cluster: through its client server, or the one that this machine is part of.

    A Ray that this process has initialised already is used as it is.
    """

    def __init__(self, address: str) -> None:
        with needed("ray://", "ray"):
            import ray
        self.name = f"ray://{address}"
        self._ray, self._own = ray, not ray.is_initialized()
        if self._own:
            local = address in ("", "auto")
            if not local:
                reached("ray", address, START)
            try:
                where = "auto" if local else f"ray://{address}"
                ray.init(where, log_to_driver=False, logging_level="error")
            except (OSError, RuntimeError, ValueError) as error:
                raise ClusterError(
                    f"no Ray cluster answers at {self.name} ({error}); start one with `{START}`"
                ) from error
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        # Asked by a function of the standard library: where qact is missing, ours would not load.
        try:
            self._ray.get(self._ray.remote(import_module).remote("qact"))
        except ImportError as error:
            raise ClusterError(f"qact is not installed on a worker of {self.name}") from error
        if outcome := self._ray.get(self._ray.remote(differs).remote(versions())):
            raise ClusterError(outcome)

    def close(self) -> None:
        """Leave the cluster, if it was found by its address."""
        if self._own:
            self._ray.shutdown()

    def room(self) -> int:
        """Two per processor, so that none waits for its next task."""
        return 2 * max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def _begin(self, job: Job, heard: Heard, gpus: int) -> None:
        from ray.util.queue import Queue

        self._task = self._ray.remote(num_gpus=gpus, max_retries=RETRIES)(_on_worker)
        self._job = self._ray.put(job)
        self._queue = Queue()
        threading.Thread(target=_forward, args=(self._queue, heard), daemon=True).start()

    def _submit(self, index: int, task: Any) -> Any:
        future = self._task.remote(self._job, index, task, self._queue).future()
        return future

    def _outcome(self, future: Any) -> Any:
        from ray.exceptions import RayError, WorkerCrashedError

        try:
            return future.result()
        except WorkerCrashedError as error:
            raise killed(RETRIES + 1) from error
        except (RayError, OSError, ImportError) as error:
            raise ClusterError(f"{self.name}: {error}") from error

    def _end(self, futures: list[Any]) -> None:
        self._queue.shutdown(force=True)


def _on_worker(job: Job, index: int, task: Any, queue: Any) -> Any:
    def say(message: Any) -> None:
        with suppress(Exception):  # whoever keeps the queue has died: progress alone is lost
            queue.actor.put_nowait.remote((index, message))

    return job(task, say)


def _forward(queue: Any, heard: Heard) -> None:
    with suppress(Exception):  # the queue is gone with its job
        while True:
            heard(*queue.get())
