"""What a module is: an activation, a norm, both in one; of torch, timm, transformers or here."""

from __future__ import annotations

import re

from torch import Tensor, nn

from qact._compat import AnyBatchNorm, AnyStatisticsNorm

# Activations that stand between layers.
HIDDEN = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
)
# What usually bounds a gate or an output.
GATES = (
    nn.Sigmoid,
    nn.Tanh,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.LogSigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Softshrink,
    nn.Hardshrink,
    nn.Tanhshrink,
    nn.Threshold,
)
FOREIGN = ("timm.layers.activations", "timm.models.layers.activations", "transformers.activations")
FOREIGN_GATES = ("sigmoid", "sigmoidme", "tanh", "hardsigmoid", "hardsigmoidme")
OURS = ("qact.activations.", "qact.nn.", "qact.conversion.lazy")
NO_ACTIVATIONS = ("qact.activations.kan",)  # layers with weights, from features to features

# BatchNorm, SyncBatchNorm and InstanceNorm have one base; timm's norms with an activation inside
# (BatchNormAct2d, GroupNormAct, LayerNormAct) are subclasses.
NORMS = (AnyStatisticsNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
FOREIGN_NORMS = ("timm.layers.", "timm.models.", "torchvision.", "transformers.")
NORM_NAME = re.compile("(Batch|Group|Instance|Layer|Rms|RMS|Simple)Norm")
# Norm and activation in one operation, which cannot be taken apart.
WELDED = ("InplaceAbn", "InPlaceABN", "InPlaceABNSync", "EvoNorm2d", "FilterResponseNormTlu2d")


def is_activation(module: nn.Module) -> bool:
    """Tell whether ``module`` is an activation of torch, timm, transformers or this package.

    Softmax is none, for it mixes channels; nor is ``nn.GLU``, which halves them.
    """
    return isinstance(module, HIDDEN + GATES) or _from(module, FOREIGN) or is_ours(module)


def is_hidden(module: nn.Module) -> bool:
    """Whether ``module`` is an activation of another that stands between layers, no gate."""
    if isinstance(module, HIDDEN):
        return True
    return _from(module, FOREIGN) and type(module).__name__.lower() not in FOREIGN_GATES


def is_ours(module: nn.Module) -> bool:
    """Whether ``module`` is an activation of this package."""
    return _from(module, OURS) and not _from(module, NO_ACTIVATIONS) and not is_norm(module)


def is_norm(module: nn.Module) -> bool:
    """Tell whether ``module`` normalises: BatchNorm, LayerNorm and their like, frozen ones too.

    A QAct is none, though adaptation treats it as one.

    >>> [is_norm(module) for module in (nn.SyncBatchNorm(2), nn.RMSNorm(2), nn.Linear(2, 2))]
    [True, True, False]
    """
    if isinstance(module, NORMS):
        return True
    foreign = _from(module, FOREIGN_NORMS) and NORM_NAME.search(type(module).__name__)
    return bool(foreign) and not is_welded(module) and _scale(module) is not None


def is_welded(module: nn.Module) -> bool:
    """Whether ``module`` is a norm whose activation cannot be taken out of it."""
    return type(module).__name__.startswith(WELDED)


def channels(module: nn.Module) -> tuple[int, int] | None:
    """Return how many channels a norm or a layer with weights puts out, and at which dimension.

    None where that cannot be told.

    >>> channels(nn.LayerNorm(8)), channels(nn.Conv2d(3, 4, 1)), channels(nn.ReLU())
    ((8, -1), (4, 1), None)
    """
    shape = getattr(module, "normalized_shape", None)
    if shape is not None:
        # The norms of timm and torchvision that are called 2d go over the channels of an image.
        return shape[0], 1 if "2d" in type(module).__name__ else -len(shape)
    for attribute, dim in _COUNTS:
        found = getattr(module, attribute, None)
        if isinstance(found, int):
            return found, getattr(module, "dim", dim) if isinstance(module, AnyBatchNorm) else dim
    scale = _scale(module) if is_norm(module) else None
    return None if scale is None else (len(scale), 1 if "2d" in type(module).__name__ else -1)


_COUNTS = (("num_features", 1), ("num_channels", 1), ("out_channels", 1), ("out_features", -1))


def _scale(module: nn.Module) -> Tensor | None:
    """The scale (C,) of a foreign norm."""
    found = getattr(module, "weight", None)
    return found if isinstance(found, Tensor) and found.dim() == 1 else None


def _from(module: nn.Module, homes: tuple[str, ...]) -> bool:
    return type(module).__module__.startswith(homes)
