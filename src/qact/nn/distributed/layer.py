"""`SyncQAct`: the context of a training batch that is divided among processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qact._compat import uncompiled
from qact.nn.distributed.exchange import joined_group
from qact.nn.distributed.observe import joined
from qact.nn.layer import QAct
from qact.rank.layout import Channels


class SyncQAct(QAct):
    """A :class:`qact.QAct` whose context in training is the batch of all processes.

    As :class:`torch.nn.SyncBatchNorm` does for the mean and variance: every process gets what one
    process would get with the joined batch, for outputs, running contexts and, in the ``full``
    mode, gradients (with respect to the sum of all processes' losses). Processes may have
    different numbers of samples, or none. A forward pass gathers five numbers per channel and adds
    up one histogram; a backward pass adds up the gradients of one. The step rank (``smooth=False``)
    gathers the values too.

    In ``eval()``, without ``torch.distributed``, and in a group of one it is a :class:`qact.QAct`.

    Args:
        num_features: channels ``C`` of the input at ``dim``.
        process_group: with whom to synchronise; None for all processes.
        **options: of :class:`qact.QAct`.

    Shape: any with ``C`` channels at ``dim``; the output is like the input.

    Raises:
        ValueError: for another number of channels, or if no process has a sample.

    Example:
        >>> SyncQAct(8)(torch.randn(4, 8)).shape
        torch.Size([4, 8])
    """

    same_in_eval = True
    process_group: Any = None

    def __init__(self, num_features: int, *, process_group: Any = None, **options: Any) -> None:
        super().__init__(num_features, **options)
        self.process_group = process_group

    def forward(self, input: Tensor) -> Tensor:
        """Map ``input`` by its rank among the values of all processes."""
        group = joined_group(self.process_group) if self.training else None
        return super().forward(input) if group is None else self._joined(input, group)

    @uncompiled
    def _joined(self, input: Tensor, group: Any) -> Tensor:
        channels = Channels.of(input, self.dim, self.num_features)
        self._tell(input)
        with torch.autocast(input.device.type, enabled=False):
            output, seen = joined(channels.z, self.level, self.rule, group, self.engine)
            if self.context.following(self._rate) is not None:
                self.context.follow(seen.detach(), self._rate)
            return channels.back(output)
