"""Stored and batch statistics together: a pseudo-count, or a fixed share."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from numbers import Real

from torch import Tensor, nn

from qact import checks
from qact.adapt.method import Method
from qact.adapt.registry import register
from qact.statistics.lend import adapting


@register("prior", paper="Schneider et al. 2020, arXiv 2006.16971, equation 2", learns="statistics")
class Prior(Method):
    """The stored statistics count as ``N`` samples beside the ``n`` of the batch.

    ``m = N/(N+n) m_s + n/(N+n) m_b``. For the variance the paper mixes in the same way; here it is
    that of the union, so the distance of the two means counts too, and BatchNorm and QAct agree.
    ``N = 0`` is the batch alone, ``N = inf`` the source. In a QAct layer large ``N`` come near the
    source within the range that is stored; beyond it ranks are those of the batch's few values
    among ``N``, and the outermost outputs grow with ``N``.

    Args:
        N: pseudo-count; 16 by the paper's figure 4 for small batches.
        **options: of :class:`Method`.
    """

    def __init__(self, model: nn.Module, *, N: float = 16.0, **options: bool) -> None:
        super().__init__(model, **options)
        if not isinstance(N, Real) or isinstance(N, bool) or math.isnan(N) or N < 0:
            raise ValueError(f"N={N!r} must be a number of samples, 0 to infinity")
        self.N: float = float(N)

    def statistics(self) -> AbstractContextManager:
        """Mixed by pseudo-count."""
        return mixing(self.model, self.N)


@register(
    "alpha_bn",
    paper="You, Li, Zhao 2021, arXiv 2110.04065, equation 2",
    learns="statistics",
)
class AlphaBN(Method):
    """A fixed share of the batch, whatever its size: ``m = (1 - alpha) m_s + alpha m_b``.

    The variance is that of the union, as in :class:`Prior`.

    Args:
        alpha: share of the batch, 0 to 1.
        **options: of :class:`Method`.
    """

    def __init__(self, model: nn.Module, *, alpha: float = 0.1, **options: bool) -> None:
        super().__init__(model, **options)
        valid = "a share, 0 to 1"
        self.alpha = 0.0 if alpha == 0 else checks.number("alpha", alpha, valid, 0, 1)
        self._size = 1

    def statistics(self) -> AbstractContextManager:
        """Mixed by share: the pseudo-count that gives it to a batch of this size."""
        count = math.inf if self.alpha == 0 else self._size * (1 - self.alpha) / self.alpha
        return mixing(self.model, count)

    def forward_and_adapt(self, x: Tensor) -> Tensor:
        """Note the size, then predict."""
        self._size = len(x)
        return self.logits(x)


def mixing(model: nn.Module, count: float) -> AbstractContextManager:
    """Stored context as ``count`` samples; its limits are exact."""
    if count == 0 or math.isinf(count):
        return adapting(model, "batch" if count == 0 else "running")
    return adapting(model, "mixed", prior=count)
