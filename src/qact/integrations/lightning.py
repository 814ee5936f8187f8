"""A Lightning callback that records source contexts, so that every checkpoint can be recalibrated.

Needs the ``lightning`` (or ``pytorch_lightning``) package.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from qact import checks, extras
from qact.recalibrate import BINS, Where, attach, record

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:
    with extras.needed("qact.lightning", "lightning"):
        from pytorch_lightning import Callback


class RecordContexts(Callback):
    """Call :func:`qact.record` on the module after training epochs, before checkpoints are saved.

    ``forward`` of the module must take the first element of a batch. Every process records the
    batches that it is given; a checkpoint holds those of process 0. To load such a checkpoint,
    call :func:`qact.recalibrate.attach` in the module's ``__init__``, or ``setup`` of this
    callback does it for ``trainer.test(..., ckpt_path=...)``.

    Args:
        loader: batches of source data; None takes the trainer's training loader.
        where: which layers, as in :func:`qact.record`.
        bins: resolution of the contexts.
        batches: how many batches to read; None reads all.
        every_n_epochs: how often; the last epoch is always recorded.

    Example:
        >>> RecordContexts(batches=50, every_n_epochs=5).batches
        50
    """

    def __init__(
        self,
        loader: Iterable[Any] | None = None,
        *,
        where: Where = None,
        bins: int = BINS,
        batches: int | None = None,
        every_n_epochs: int = 1,
    ) -> None:
        self.loader = loader
        self.where = where
        self.bins = checks.integer("bins", bins, 8)
        self.batches = None if batches is None else checks.integer("batches", batches, 1)
        self.every_n_epochs = checks.integer("every_n_epochs", every_n_epochs, 1)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Attach empty contexts where none are, so that a checkpoint with contexts loads.

        Raises:
            ValueError: a callback saves averaged weights, another network than the one that trains.
        """
        averages = [type(one).__name__ for one in trainer.callbacks if _averages(one)]
        if stage == "fit" and averages:
            raise ValueError(
                f"RecordContexts records the network that trains, and {averages[0]} saves another: "
                "leave one of them out, and call qact.record(model, batches) after training"
            )
        attach(pl_module, where=self.where, bins=self.bins)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Record. Lightning saves its checkpoints after all other callbacks."""
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs and epoch != trainer.max_epochs and not trainer.should_stop:
            return
        loader = trainer.train_dataloader if self.loader is None else self.loader
        record(pl_module, islice(loader, self.batches), where=self.where, bins=self.bins)


def _averages(callback: Any) -> bool:
    """Whether it is Lightning's ``WeightAveraging`` or derived from it (by name: since 2.6)."""
    return any(kind.__name__ == "WeightAveraging" for kind in type(callback).__mro__)
