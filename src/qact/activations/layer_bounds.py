"""Interval bounds of the layers between activations: a rule each, from a box to a box.

A rule enters by the class of its layer, and :func:`qact.activations.intervals.interval` finds it.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.nn import functional as F

from qact._compat import AnyBatchNorm
from qact.activations.intervals import Box, enclosed, rule, spread
from qact.nn.normed import ChannelNorm

# Each grows with every one of its inputs, or moves them about: corners become corners.
GROWING = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Flatten),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.Unflatten),
    *(nn.Upsample, nn.PixelShuffle, nn.ChannelShuffle),
)


@rule(*GROWING)
def _growing(module: Any, box: Box) -> Box:
    return box.each(module)


@rule(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
def _linear(module: Any, box: Box) -> Box:
    """``W m + b +- |W| r``."""
    weight = module.weight.abs()
    if isinstance(module, nn.Linear):
        return Box.about(module(box.middle), F.linear(box.radius, weight))
    return Box.about(module(box.middle), module._conv_forward(box.radius, weight, None))


@rule(AnyBatchNorm, nn.SyncBatchNorm, ChannelNorm)
def _batchnorm(module: Any, box: Box) -> Box:
    if module.training or module.running_mean is None:
        raise NotImplementedError(
            f"{type(module).__name__} reads its batch: it has bounds in eval() with statistics"
        )
    return enclosed(module, box)  # per channel it grows or falls


@rule(nn.LayerNorm, nn.GroupNorm)
def _standardised(module: Any, box: Box) -> Box:
    """``(x - mean) / std`` in a group: the numerator exact, the rest sound, within sqrt n."""
    shape = box.low.shape
    if isinstance(module, nn.GroupNorm):
        grouped = box.each(lambda z: z.reshape(len(z), module.num_groups, -1))
    else:
        grouped = box.each(lambda z: z.flatten(-len(module.normalized_shape)))
    n, (_, std) = grouped.low.shape[-1], spread(grouped, (-1,))
    mean = grouped.each(lambda z: z.mean(-1, keepdim=True))
    # A value is part of its own mean, with which it moves.
    low = grouped.low - mean.high + (grouped.high - grouped.low) / n
    high = grouped.high - mean.low - (grouped.high - grouped.low) / n
    ratio = Box(low, high).times(std.each(lambda s: (s.square() + module.eps).sqrt()).inverse)
    box = ratio.each(lambda z: z.clamp(-math.sqrt(n), math.sqrt(n)).reshape(shape))
    if module.weight is None:
        return box
    column = [1, -1, *[1] * (len(shape) - 2)] if isinstance(module, nn.GroupNorm) else None
    weight, bias = (
        t if column is None else t.reshape(column) for t in (module.weight, module.bias)
    )
    return enclosed(lambda z: z * weight + bias, box)
