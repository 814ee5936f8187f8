"""The networks by name, built alike whatever each of them needs to know."""

from __future__ import annotations

import inspect

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
    image_size: int = 32,
    act: Act = "relu",
    placement: str = "everywhere",
    width_multiplier: float = 1.0,
) -> nn.Module:
    """Return an untrained network.

    Args:
        name: one of :func:`names`.
        in_channels: channels of the images.
        num_classes: number of outputs (logits).
        image_size: side of the images; networks that take any size do not look at it.
        act: activation, see :func:`qact.models.placement.placed`.
        placement: ``"everywhere"``, or for an ``act`` that is a name or a factory ``"paper"``
            (:func:`qact.models.paper`), ``"sums"`` or ``"branches"``.
        width_multiplier: scales all channels.

    Raises:
        ValueError: unknown ``name`` or ``placement``, or numbers that do not fit.

    Example:
        >>> from qact import models
        >>> type(models.create("lenet", in_channels=1, image_size=28, act="qact")).__name__
        'LeNet'
    """
    make = entry(name).make
    sized = "image_size" in inspect.signature(make).parameters
    return make(
        in_channels=in_channels,
        num_classes=num_classes,
        act=PLACEMENTS.create(placement, act),
        width_multiplier=width_multiplier,
        **({"image_size": image_size} if sized else {}),
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
