"""The one interface of all engines, `Cluster.run`: tasks in, results out as they come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any

from qact.integrations.cluster.task import ClusterError, Failed, Job

RETRIES = 3  # further workers that a task may kill, as Dask and Ray have it
AHEAD = 8  # tasks per worker that may be begun beyond the oldest, where results are put in order
Heard = Callable[[int, Any], None]
Inbox = SimpleQueue[tuple[int, Any]]  # a task's index; None if it is done, or [what it said]


class WorkerDiedError(Exception):
    """A worker was killed, and its engine does not repeat the task by itself."""


class Cluster(ABC):
    """Workers that run one function on many tasks. A context manager.

    Attributes:
        name: what the cluster is called in reports.
        shares_files: whether workers see the files of this process.
    """

    name: str
    shares_files = False

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027, most have nothing to let go of
        """Let go of the workers."""

    @abstractmethod
    def room(self) -> int:
        """How many tasks to have under way."""

    def run(
        self,
        function: Callable[[Any], Any],
        tasks: Iterable[Any],
        *,
        heard: Heard = lambda index, message: None,
        gpus: int = 0,
        window: int | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Yield ``(index, result)`` of each task in the order of completion.

        An error that the function raised is a result too: whoever asks raises it, or goes on. A
        task whose worker was killed is given to another one, three times at most; so a function
        must be one of its task alone, as whatever is done twice is done the same way.

        Args:
            function: of a task; it travels once, with what is bound in it.
            tasks: may be endless; they are taken as workers come free.
            heard: called with a task's index and what it sent by :func:`qact.cluster.tell`.
            gpus: GPUs of a task, where the engine gives them out (Ray).
            window: how many tasks may be begun beyond the oldest that is not finished.

        Raises:
            ClusterError: versions differ, or the engine is gone.
        """
        return self._results(Job(function), tasks, heard, gpus, window)

    @abstractmethod
    def _results(
        self, job: Job, tasks: Iterable[Any], heard: Heard, gpus: int, window: int | None
    ) -> Iterator[tuple[int, Any]]:
        """What :meth:`run` yields."""

    def in_order(
        self, function: Callable[[Any], Any], tasks: Iterable[Any], **options: Any
    ) -> Iterator[Any]:
        """Yield the results in the order of the tasks; an error is raised where it stands.

        Options as :meth:`run` has them.
        """
        waiting: dict[int, Any] = {}
        due = 0
        for index, result in self.run(function, tasks, window=AHEAD * self.room(), **options):
            waiting[index] = result
            while due in waiting:
                result = waiting.pop(due)
                if isinstance(result, Exception):
                    raise result
                yield result
                due += 1


class Remote(Cluster):
    """Workers beyond this process.

    An engine says how a task gets to a worker (``_submit``) and what came of it (``_outcome``);
    whatever is done or told arrives in one queue. Tasks are taken from the iterable as workers come
    free, so neither they nor their results have to fit into memory together.
    """

    def _results(
        self, job: Job, tasks: Iterable[Any], heard: Heard, gpus: int, window: int | None
    ) -> Iterator[tuple[int, Any]]:
        inbox = self._inbox()
        flying: dict[int, _Flight] = {}
        todo = enumerate(tasks)
        following = next(todo, None)
        self._begin(job, lambda index, what: inbox.put((index, [what])), gpus)
        try:
            while following or flying:
                while following and self._may_start(following[0], flying, window):
                    flight = flying[following[0]] = _Flight(*following)
                    flight.start(self, inbox)
                    following = next(todo, None)
                index, said = inbox.get()
                if index not in flying:  # what was said by a task that has ended is late
                    continue
                if said is not None:
                    heard(index, said[0])
                elif (outcome := flying[index].outcome(self, inbox)) is not None:
                    del flying[index]
                    yield index, outcome[0]
        finally:
            self._end([flight.future for flight in flying.values()])

    def _inbox(self) -> Inbox:
        return SimpleQueue()

    def _may_start(self, index: int, flying: dict[int, _Flight], window: int | None) -> bool:
        ahead = index - min(flying, default=index)
        return len(flying) < self.room() and (window is None or ahead < window)

    @abstractmethod
    def _begin(self, job: Job, heard: Heard, gpus: int) -> None:
        """Get ready for the tasks of a job; ``heard`` may be called by any thread."""

    @abstractmethod
    def _submit(self, index: int, task: Any) -> Any:
        """A future of the task, with ``add_done_callback``."""

    @abstractmethod
    def _outcome(self, future: Any) -> Any:
        """The result of a future that is done.

        Raises:
            WorkerDiedError: it should be submitted once more.
            ClusterError: the engine has given up on it.
        """

    @abstractmethod
    def _end(self, futures: list[Any]) -> None:
        """Leave the job; what is under way is not wanted any more."""


class _Flight:
    """A task under way."""

    def __init__(self, index: int, task: Any) -> None:
        self.index, self.task, self.left = index, task, RETRIES
        self.future: Any = None

    def start(self, cluster: Remote, inbox: Inbox) -> None:
        self.future = cluster._submit(self.index, self.task)
        self.future.add_done_callback(lambda _: inbox.put((self.index, None)))

    def outcome(self, cluster: Remote, inbox: Inbox) -> list[Any] | None:
        """What came of it, in a list; None if it was started again."""
        try:
            found = cluster._outcome(self.future)
        except ClusterError as error:
            found = error
        except WorkerDiedError:
            if self.left:
                self.left -= 1
                self.start(cluster, inbox)
                return None
            found = killed(RETRIES + 1)
        return [found.error if isinstance(found, Failed) else found]


def killed(times: int) -> ClusterError:
    """The error for a task that no worker survives."""
    return ClusterError(
        f"a worker was killed, for want of memory perhaps, and {times - 1} others after it at the "
        "same task; the same command goes on"
    )
