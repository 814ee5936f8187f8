"""AQR: pre-activations mapped onto the source by rank."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from qact import checks
from qact.adapt.method import Method
from qact.adapt.registry import register
from qact.recalibrate import recalibrated, record
from qact.surgery import Where


@register("aqr", paper="Mehrbod et al. 2025, arXiv 2511.03148", learns="statistics")
class AQR(Method):
    """Each pre-activation takes the source value of the rank that it has in the batch.

    See :func:`qact.recalibrated`; here every batch stands for itself, and nothing is remembered.

    Args:
        source: unlabelled source samples (N, ...), or batches of them, to record first; None for a
            model in which :func:`qact.record` has stored its contexts.
        prior: samples that the source counts for beside the batch; None for the batch alone.
        shape: 1 maps by rank, 0 by a line that matches mean and spread.
        where: which layers, as in :func:`qact.record`; None for the norms outside of QAct layers.
        **options: of :class:`Method`.

    Raises:
        RuntimeError: nothing was recorded, and there is no ``source``.
    """

    needs_norms = False  # what can be recorded, `record` knows

    def __init__(
        self,
        model: nn.Module,
        *,
        source: Tensor | Iterable[Any] | None = None,
        prior: float | None = None,
        shape: float = 1.0,
        where: Where = None,
        **options: Any,
    ) -> None:
        self.prior = (
            None if prior is None else checks.number("prior", prior, "a positive number", 0)
        )
        self.shape, self.where = shape, where
        self._source = source
        super().__init__(model, **options)
        with self.statistics():  # refuse now what could not be mapped later
            pass

    def configure(self) -> None:
        """Freeze the model, and record the source if there is one."""
        super().configure()
        if self._source is not None:
            record(self.model, self._source, where=self.where)
        self._source = None

    def statistics(self) -> AbstractContextManager:
        """The ranks of the batch, and of the source if it has a prior."""
        context = "batch" if self.prior is None else "mixed"
        return recalibrated(
            self.model, context, prior=self.prior, shape=self.shape, where=self.where
        )
