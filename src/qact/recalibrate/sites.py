"""Which layers are recalibrated, where their channels stand, and where hooks go."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor, nn

from qact.context import Context
from qact.nn.layer import QAct
from qact.nn.normed import NormedQAct
from qact.surgery import Where, channels, is_norm, outermost, select, tapped
from qact.surgery.where import FORMS, Kind

NAME = "source_context"  # the child of a layer that holds what was recorded there
INPUTS = "input_context"  # the child that holds what was recorded of its input

Change = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True)
class Site:
    """A layer whose output is recalibrated: its name, channels and channel dimension."""

    name: str
    module: nn.Module
    channels: int
    dim: int
    keeps: str = NAME

    @property
    def context(self) -> Context | None:
        """The recorded context, if there is one."""
        found = getattr(self.module, self.keeps, None)
        return found if isinstance(found, Context) else None

    @property
    def place(self) -> tuple[nn.Module, str]:
        """The module and side where the pre-activation passes.

        Where a norm has its activation inside (``BatchNormAct2d`` of timm), that is what enters
        that activation.
        """
        inner = getattr(self.module, "act", None)
        return (inner, "input") if isinstance(inner, nn.Module) else (self.module, "output")

    def hook(self, change: Change) -> AbstractContextManager[None]:
        """``change`` is told every pre-activation in a block; what it returns takes its place."""
        module, side = self.place
        return tapped(module, change, side)


@dataclass(frozen=True)
class Entrance(Site):
    """A linear layer of whose input something is recorded."""

    keeps: str = INPUTS

    @property
    def place(self) -> tuple[nn.Module, str]:
        """Its input."""
        return self.module, "input"


def entrances(model: nn.Module, where: Where = None) -> list[Entrance]:
    """The linear layers that ``where`` chooses, the last one by default.

    Raises:
        ValueError: there is none.
    """
    found = select(model, where, lambda module: isinstance(module, nn.Linear))
    linear = [(name, module) for name, module in found if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"{type(model).__name__} has no nn.Linear for where={where!r}")
    chosen = linear[-1:] if where is None else linear
    return [Entrance(name, module, module.in_features, -1) for name, module in chosen]


def sites(model: nn.Module, where: Where = None, kind: Kind = is_norm) -> list[Site]:
    """The layers of ``model`` that ``where`` chooses, in the order of ``named_modules``.

    Of what a name or pattern finds, those of the ``kind`` count, or else layers with weights; None
    is the kind alone. What is part of a QAct or of a context is left out.

    Raises:
        ValueError: no layer fits. TypeError: a chosen layer has no channels known beforehand.
    """
    ours = outermost(model, lambda module: isinstance(module, QAct | NormedQAct | Context))
    inside = {part for _, module in ours for part in module.modules()}
    found = [
        Site(name, module, *_channels(module, name))
        for name, module in select(model, where, kind, channels)
        if module not in inside
    ]
    if not found:
        kinds = sorted({type(m).__name__ for m in model.modules() if not any(m.children())})
        wanted = "has no BatchNorm, GroupNorm, LayerNorm or other norm"
        raise ValueError(
            f"{type(model).__name__} {wanted if where is None else f'has no layer {where!r}'}; "
            f"its layers are {', '.join(kinds)}. Choose with where=: {FORMS}"
        )
    return found


def _channels(module: nn.Module, name: str) -> tuple[int, int]:
    found = channels(module)
    if found is None:
        raise TypeError(
            f"{name!r} is a {type(module).__name__}, whose channels cannot be told; choose norms, "
            "convolutions or linear layers"
        )
    return found
