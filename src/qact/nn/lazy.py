"""`LazyQAct`: a `QAct` that takes its number of channels from its first input."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

from qact.context import Context
from qact.nn.layer import KNOTS, QAct
from qact.rank.layout import Channels
from qact.surgery import lasting


class LazyQAct(LazyModuleMixin, QAct):
    """A :class:`QAct` that takes ``num_features`` from its first input and then becomes one.

    Example:
        >>> import torch
        >>> layer = LazyQAct(dim=-1)
        >>> _ = layer(torch.randn(2, 5, 12))
        >>> layer.num_features
        12
    """

    cls_to_become = QAct

    def __init__(self, **options: Any) -> None:
        super().__init__(1, **options)
        self.num_features = 0
        for name in ("weight", "bias", "table"):
            made = getattr(self, name)
            if made is not None:
                setattr(self, name, UninitializedParameter(device=made.device, dtype=made.dtype))  # type: ignore[call-arg]

    def reset_parameters(self) -> None:
        """Nothing to reset before the first input."""
        if not self.has_uninitialized_params() and self.num_features != 0:
            super().reset_parameters()

    @lasting
    def initialize_parameters(self, input: Tensor) -> None:
        """Take the number of channels from ``input``."""
        if self.num_features == 0:
            self._take(Channels.of(input, self.dim).filled().number, self.context.bins)
            for name in ("weight", "bias", "table"):
                blank = getattr(self, name)
                if isinstance(blank, UninitializedParameter):
                    columns = (KNOTS,) if name == "table" else ()
                    blank.materialize((self.num_features, *columns))
            QAct.reset_parameters(self)

    def _take(self, channels: int, bins: int) -> None:
        old = self.context.mass
        self.num_features = channels
        self.context = Context(channels, bins, device=old.device, dtype=old.dtype)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        mass = state_dict.get(prefix + "context.mass")
        if mass is not None and mass.dim() == 2 and mass.numel():
            self._take(*mass.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
