"""torchao's quantisation of exported graphs (PT2E) with contexts as its observers.

Needs the extra ``torchao``, which is imported when an observer is asked for.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from qact import checks, extras
from qact.context import Context
from qact.taps import Observer, clip_range
from qact.taps.quantise import CLIPS

BINS = 2048  # of all channels together


def context_observer(
    context: Context | None = None,
    *,
    clip: str = "mse",
    share: float = 0.9999,
    bins: int = BINS,
) -> Any:
    """What a ``QuantizationSpec`` of torchao takes as ``observer_or_fake_quant_ctr``.

    It counts a context of what passes, channels together, and reads its range off that. With a
    context that is there it counts nothing: its ranges need no calibration pass.

    Args:
        context: of the place, as :func:`qact.tap` counts it; None counts while torchao calibrates.
        clip: how a range is chosen, see :func:`qact.taps.clip_range`.
        share: of the values, by ``"quantile"``.
        bins: resolution of the contexts.

    Raises:
        ValueError: an option is unknown. MissingExtraError: torchao is not installed.
    """
    checks.choice("clip", clip, CLIPS)
    checks.integer("bins", bins, 8)
    if context is not None:
        context.require_data()
    made = {"context": context, "clip": clip, "share": share, "bins": bins}
    return _observer().with_args(**made)


@lru_cache(maxsize=1)
def _observer() -> Any:
    """The class, made when torchao is there."""
    with extras.needed("an observer for torchao", "torchao"):
        from torchao.quantization.pt2e.observer import UniformQuantizationObserverBase

    class ContextObserver(UniformQuantizationObserverBase):
        def __init__(
            self, context: Context | None, clip: str, share: float, bins: int, **options: Any
        ) -> None:
            super().__init__(**options)
            self._given, self._clip, self._share = context, clip, share
            self._counted = Observer(bins)

        @torch.no_grad()
        def forward(self, z: Tensor) -> Tensor:
            if self._given is None and z.numel():
                self._counted.add(z.reshape(1, 1, -1))
            return z

        def calculate_qparams(self) -> tuple[Tensor, Tensor]:
            context = self._counted.context() if self._given is None else self._given
            bits = (self.quant_max - self.quant_min + 1).bit_length() - 1
            low, high = clip_range(context, bits, self._clip, self._share)
            return self._calculate_qparams(torch.tensor(low), torch.tensor(high))

    return ContextObserver
