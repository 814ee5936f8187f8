"""How far a bench is: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from qact.bench.errors import RecipeError
from qact.extras import hint


class Display:
    """What the grid tells while it runs; this one says nothing. A context manager."""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def start(self, cell: str, total: int) -> None:
        """A cell begins that will pass ``total`` units of work."""

    def advance(self, cell: str, amount: int, stage: str) -> None:
        """Note ``amount`` more units in the stage "training" or "measuring"."""

    def done(self, cell: str, text: str) -> None:
        """A cell ended; ``text`` says how."""


class TimeLeft(ProgressColumn):
    """Time left by the mean pace since the start: slower activations make a short window jump."""

    def render(self, task: Task) -> Text:
        """Return minutes and seconds left."""
        if not task.completed or task.total is None or task.elapsed is None:
            return Text("left  -:--")
        left = int(task.elapsed * (task.total - task.completed) / task.completed)
        hours, left = divmod(left, 3600)
        ahead = f"{hours}:{left // 60:02d}" if hours else f"{left // 60:2d}"
        return Text(f"left {ahead}:{left % 60:02d}")


class Bars(Display):
    """One bar for the whole grid and one per cell at work."""

    def __init__(self, console: Console, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<26}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeLeft(),
            console=console,
        )
        self._whole = self._progress.add_task("whole bench", total=total)
        self._bars: dict[str, tuple[TaskID, int]] = {}

    def __enter__(self) -> Bars:
        """Show the bars."""
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def start(self, cell: str, total: int) -> None:
        """Show a bar for the cell."""
        self._bars[cell] = (self._progress.add_task(cell, total=total), total)

    def advance(self, cell: str, amount: int, stage: str) -> None:
        """Move the cell's bar and that of the whole."""
        task, left = self._bars[cell]
        self._bars[cell] = (task, left - amount)
        self._progress.update(task, advance=amount, description=f"{cell} {stage}")
        self._progress.advance(self._whole, amount)

    def done(self, cell: str, text: str) -> None:
        """Replace the cell's bar by a line."""
        task, left = self._bars.pop(cell)
        self._progress.advance(self._whole, left)
        self._progress.remove_task(task)
        self._progress.console.print(f"{cell:<13} {text}", highlight=False, markup=False)


class Lines(Display):
    """One line per finished cell, with the seconds since the start: for logs and pipes."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total, self._passed = console, total, 0
        self._begin = time.monotonic()
        self._left: dict[str, int] = {}

    def start(self, cell: str, total: int) -> None:
        """Remember what the cell will take."""
        self._left[cell] = total

    def advance(self, cell: str, amount: int, stage: str) -> None:
        """Count the work."""
        self._passed += amount
        self._left[cell] -= amount

    def done(self, cell: str, text: str) -> None:
        """Print one line."""
        self._passed += self._left.pop(cell, 0)
        share = f"{100 * self._passed / max(1, self._total):3.0f}%"
        line = f"{time.monotonic() - self._begin:4.0f} s {share}  {cell:<13} {text}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


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
        text = f"epoch {epoch}/{self._epochs}  loss {entry['loss']:.4f}"
        if "val_accuracy" in entry:
            text += f"  validation {100 * entry['val_accuracy']:.2f}%"
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
