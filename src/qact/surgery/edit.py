"""The edit itself: layers put at their sites, classes grafted; an error undoes every step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import nn

from qact.conversion.plan import Plan
from qact.conversion.sites import Site

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
FLAGS = (
    *("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks_with_kwargs", "_is_full_backward_hook"),
)


class Swap(AbstractContextManager["Swap"]):
    """Within the block, changes of a model; an error takes them back."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            for step in reversed(self._undo):
                step()
        self._undo.clear()

    def graft(self, plan: Plan) -> None:
        """Give every owner whose forward was rewritten its new class."""
        for owner, kind in plan.grafts:
            self._undo.append(partial(_become, owner, type(owner)))
            _become(owner, kind)

    def put(self, site: Site, new: nn.Module) -> None:
        """Put ``new`` where ``site`` is."""
        owner, key = site.owner, site.key
        self._undo.append(_restorer(owner, key))
        if key in owner._modules:
            owner._modules[key] = new
        else:
            setattr(owner, key, new)
        if isinstance(owner, nn.TransformerEncoderLayer):
            # Its fast path in eval() would go on with the function that stood there.
            flag = owner.activation_relu_or_gelu
            self._undo.append(lambda: setattr(owner, "activation_relu_or_gelu", flag))
            owner.activation_relu_or_gelu = 0

    def set(self, module: nn.Module, name: str, value: Any) -> None:
        """Set a plain attribute."""
        before = {name: vars(module)[name]} if name in vars(module) else {}
        self._undo.append(lambda: (vars(module).pop(name, None), vars(module).update(before)))
        vars(module)[name] = value


def _become(owner: nn.Module, kind: type[nn.Module]) -> None:
    owner.__class__ = kind


def _restorer(owner: nn.Module, key: str) -> Callable[[], Any]:
    """What puts the attribute ``key`` back as it is now, the order of modules included."""
    modules, plain = dict(owner._modules), vars(owner).get(key)

    def restore() -> None:
        owner._modules.clear()
        owner._modules.update(modules)
        if plain is not None:
            vars(owner)[key] = plain

    return restore


def move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Let ``new`` answer the hooks of ``old``; handles that remove them go on working."""
    for name in HOOKS:
        theirs = getattr(old, name)
        if theirs and not getattr(new, name):
            setattr(new, name, theirs)
        else:
            getattr(new, name).update(theirs)
    for name in FLAGS:
        value = getattr(old, name)
        if isinstance(value, dict):
            getattr(new, name).update(value)
        elif value is not None:
            setattr(new, name, value)
