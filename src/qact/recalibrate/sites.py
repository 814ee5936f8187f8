"""Which layers are recalibrated, where their channels stand, and where hooks go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.hooks import RemovableHandle

from qact.context import Context
from qact.nn.layer import QAct
from qact.nn.normed import NormedQAct

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
NAME = "source_context"  # the child of a layer that holds what was recorded there

Where = str | type | tuple[type, ...] | Callable[[nn.Module, str], bool] | None
Change = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True)
class Site:
    """A layer whose output is recalibrated: its name, channels and channel dimension."""

    name: str
    module: nn.Module
    channels: int
    dim: int

    @property
    def context(self) -> Context | None:
        """The recorded source context, if there is one."""
        found = getattr(self.module, NAME, None)
        return found if isinstance(found, Context) else None

    def hook(self, change: Change) -> RemovableHandle:
        """Call ``change`` on every pre-activation; a tensor that it returns takes its place.

        Where a norm has its activation inside (``BatchNormAct2d`` of timm), the pre-activation is
        what enters that activation.
        """
        inner = getattr(self.module, "act", None)
        if isinstance(inner, nn.Module):
            return inner.register_forward_pre_hook(lambda _, args: _first(change(args[0]), args))
        return self.module.register_forward_hook(lambda _, args, output: change(output))


def _first(new: Tensor | None, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    return None if new is None else (new, *args[1:])


def sites(model: nn.Module, where: Where = None) -> list[Site]:
    """The layers of ``model`` that ``where`` names, in the order of ``named_modules``.

    Raises:
        ValueError: no layer fits. TypeError: a chosen layer has no channels known beforehand.
    """
    chosen = _chooser(where)
    inside = [n for n, m in model.named_modules() if isinstance(m, (QAct, NormedQAct, Context))]
    found = []
    for name, module in model.named_modules():
        owned = any(name == n or name.startswith(f"{n}.") or n == "" for n in inside)
        if not owned and chosen(module, name):
            found.append(Site(name, module, *_channels(module, name)))
    if not found:
        kinds = sorted({type(m).__name__ for m in model.modules() if not any(m.children())})
        wanted = "has no BatchNorm, GroupNorm, LayerNorm or other norm"
        raise ValueError(
            f"{type(model).__name__} {wanted if where is None else f'has no layer {where!r}'}; "
            f"its layers are {', '.join(kinds)}. Choose with where=: a name, a pattern, a type or "
            "a predicate (module, name)"
        )
    return found


def _chooser(where: Where) -> Callable[[nn.Module, str], bool]:
    if where is None:
        return lambda module, name: isinstance(module, NORMS)
    if isinstance(where, str):
        return lambda module, name: name == where or (name != "" and fnmatchcase(name, where))
    if isinstance(where, (type, tuple)):
        return lambda module, name: isinstance(module, where)
    if callable(where):
        return where
    raise TypeError(
        f"where={where!r} must be a name, a pattern, a type or a predicate (module, name)"
    )


def _channels(module: nn.Module, name: str) -> tuple[int, int]:
    """How many channels the output has, and at which dimension."""
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        shape = module.normalized_shape
        # timm's and torchvision's LayerNorm2d normalise over the channels of an image.
        return shape[0], 1 if type(module).__name__.endswith("2d") else -len(shape)
    for attribute, dim in _ATTRIBUTES:
        found = getattr(module, attribute, None)
        if isinstance(found, int):
            return found, getattr(module, "dim", dim) if isinstance(module, _BatchNorm) else dim
    raise TypeError(
        f"{name!r} is a {type(module).__name__}, whose channels cannot be told; choose norms, "
        "convolutions or linear layers"
    )


_ATTRIBUTES = (("num_features", 1), ("num_channels", 1), ("out_channels", 1), ("out_features", -1))
