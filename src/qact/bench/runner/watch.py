"""One training as it goes on: a bar on a terminal, a line per epoch elsewhere, and TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from qact.bench.errors import RecipeError
from qact.bench.runner.progress import TimeLeft
from qact.extras import hint


class Watch:
    """What :func:`qact.bench.train.train_cell` calls: ``advance`` per step, ``tell`` per epoch.

    The time left goes by the pace of this run alone: epochs that an earlier one did are no work.

    Args:
        console: where to print.
        epochs: of the whole training.
        done: of them, finished by an earlier run.
        images: of one epoch.
        log: called with each epoch's number and results, besides.
    """

    def __init__(
        self, console: Console, epochs: int, done: int, images: int, log: Any = None
    ) -> None:
        self._console, self._epochs, self._done, self._log = console, epochs, done, log
        self._begin = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description:<36}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeLeft(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=max(1, epochs - done) * images)

    def __enter__(self) -> Watch:
        """Show the bar."""
        self._bar.start()
        if 0 < self._done < self._epochs:
            self._say(f"goes on after epoch {self._done} of {self._epochs}")
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def advance(self, images: int) -> None:
        """Count the images of a step."""
        self._bar.advance(self._task, images)

    def tell(self, epoch: int, entry: dict[str, float]) -> None:
        """Say what came of an epoch."""
        text = f"epoch {epoch}/{self._epochs}  loss {entry['loss']:.4f}  validation "
        text += f"{100 * entry['val_accuracy']:.2f}%"
        self._bar.update(self._task, description=text)
        if not self._console.is_terminal:
            pace = (time.monotonic() - self._begin) / max(1, epoch - self._done)
            self._say(
                f"{text}  {entry['seconds']:.1f} s, left {clock(pace * (self._epochs - epoch))}"
            )
        if self._log is not None:
            self._log(epoch, entry)

    def _say(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """Return hours, minutes and seconds.

    Example:
        >>> clock(3723.4), clock(59)
        ('1:02:03', '0:59')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def tensorboard(folder: Path, done: int) -> Iterator[Any]:
    """Yield a function that logs each epoch for TensorBoard; epochs after ``done`` are replaced.

    Raises:
        RecipeError: the package ``tensorboard`` is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RecipeError(
            f"--tensorboard needs tensorboard, which is not installed: {hint('tensorboard')}"
        ) from error
    writer = SummaryWriter(folder, purge_step=done + 1)

    def log(epoch: int, entry: dict[str, float]) -> None:
        for name, value in entry.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()

    try:
        yield log
    finally:
        writer.close()
