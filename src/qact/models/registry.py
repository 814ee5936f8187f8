"""The networks by name, built alike whatever each of them needs to know."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from qact.models.placement import PLACEMENTS, Act, Placement, placed
from qact.registry import Entry, Registry

MODELS = Registry("model", Entry, room="qact.models")
register = MODELS.register
entry = MODELS.__getitem__
names = MODELS.names


def create(
    name: str,
    *,
    in_channels: int = 3,
    num_classes: int = 10,
    image_size: int | tuple[int, int] = 32,
    act: Act = "relu",
    placement: str = "everywhere",
    width_multiplier: float = 1.0,
    normaliser: str = "softmax",
) -> nn.Module:
    """Return an untrained network.

    Args:
        name: one of :func:`names`.
        in_channels: channels of the images.
        num_classes: number of outputs (logits).
        image_size: side of the images, or height and width; networks that take any size do not
            look at it, and others take squares.
        act: activation, see :func:`qact.models.placement.placed`.
        placement: ``"everywhere"``, or for an ``act`` that is a name or a factory ``"paper"``
            (:func:`qact.models.paper`), ``"sums"`` or ``"branches"``.
        width_multiplier: scales all channels.
        normaliser: of the attention, see :class:`qact.attention.Attention`.

    Raises:
        ValueError: unknown ``name`` or ``placement``, numbers that do not fit, or a ``normaliser``
            for a network without attention.

    Example:
        >>> from qact import models
        >>> type(models.create("lenet", in_channels=1, image_size=28, act="qact")).__name__
        'LeNet'
    """
    make = entry(name).make
    side = image_size if isinstance(image_size, int) else max(image_size)
    own: dict[str, Any] = {"image_size": side, "normaliser": normaliser}
    taken = {k: v for k, v in own.items() if k in inspect.signature(make).parameters}
    if "image_size" in taken and image_size not in (side, (side, side)):
        raise ValueError(f"image_size={image_size!r}: {name!r} takes square images alone")
    if normaliser != "softmax" and "normaliser" not in taken:
        raise ValueError(f"normaliser={normaliser!r} is for attention, and this network has none")
    return make(
        in_channels=in_channels,
        num_classes=num_classes,
        act=PLACEMENTS.create(placement, act),
        width_multiplier=width_multiplier,
        **taken,
    )


build = create


def positions(name: str) -> list[str]:
    """Return the positions of a network's activations, in the order of their construction.

    Example:
        >>> from qact.models import positions
        >>> positions("resnet_small")[:3], positions("resnet_small")[-1]
        (['stem.2', 'stages.0.0.act1', 'stages.0.0.act2'], 'features')
    """
    act = placed(Placement(lambda position: None))
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        create(name, act=act, width_multiplier=0.25)
    return act.positions
