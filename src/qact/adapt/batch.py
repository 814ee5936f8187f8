"""Statistics and contexts of the test batch."""

from __future__ import annotations

from contextlib import AbstractContextManager

from qact.adapt.method import Method
from qact.adapt.registry import register
from qact.statistics.lend import adapting


@register(
    "batch",
    paper="Nado et al. 2020, arXiv 2006.10963; for QAct arXiv 2405.11573",
    learns="statistics",
)
class Batch(Method):
    """Every BatchNorm normalises by the batch, every QAct ranks in it. Nothing is remembered.

    GroupNorm and LayerNorm look at one sample only, and a model with nothing else is unchanged.

    Options are those of :class:`Method`.
    """

    def statistics(self) -> AbstractContextManager:
        """The batch."""
        return adapting(self.model, "batch")


@register(
    "mixed",
    paper="arXiv 2006.16971, equation 2; QAct context 'mixed'",
    learns="statistics",
)
class Mixed(Method):
    """Batch and stored context together, with the prior that each QAct layer has (BatchNorm: 16).

    Options are those of :class:`Method`.
    """

    def statistics(self) -> AbstractContextManager:
        """Stored and batch."""
        return adapting(self.model, "mixed")
