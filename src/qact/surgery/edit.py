"""Changes of a model that an error takes back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
FLAGS = (
    *("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks_with_kwargs", "_is_full_backward_hook"),
)


class Edit(AbstractContextManager["Edit"]):
    """Within the block, changes of a model; an error takes them back, in reverse order.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> with Edit() as edit:
        ...     edit.put(net, "1", nn.GELU())
        >>> net[1]
        GELU(approximate='none')
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            for step in reversed(self._undo):
                step()
        self._undo.clear()

    def put(self, owner: nn.Module, key: str, new: nn.Module) -> None:
        """Let ``owner`` have ``new`` as its attribute ``key``, whatever was there."""
        self._undo.append(_restorer(owner, key))
        vars(owner).pop(key, None)  # a plain attribute would be found first
        if key in owner._modules:
            owner._modules[key] = new
        else:
            setattr(owner, key, new)

    def replace(self, model: nn.Module, name: str, new: nn.Module) -> None:
        """:meth:`put` at a dotted path of ``model``, in the mode of the module that stood there."""
        path, _, key = name.rpartition(".")
        new.train(model.get_submodule(name).training)
        self.put(model.get_submodule(path), key, new)

    def become(self, module: nn.Module, kind: type[nn.Module]) -> None:
        """Give ``module`` another class."""
        self._undo.append(partial(setattr, module, "__class__", type(module)))
        module.__class__ = kind

    def set(self, module: nn.Module, name: str, value: Any) -> None:
        """Set a plain attribute."""
        before = {name: vars(module)[name]} if name in vars(module) else {}
        self._undo.append(lambda: (vars(module).pop(name, None), vars(module).update(before)))
        vars(module)[name] = value


def _restorer(owner: nn.Module, key: str) -> Callable[[], Any]:
    """What puts the attribute ``key`` back as it is now, the order of modules included."""
    modules, plain = dict(owner._modules), vars(owner).get(key)

    def restore() -> None:
        owner._modules.clear()
        owner._modules.update(modules)
        if plain is not None:
            vars(owner)[key] = plain

    return restore


PACKS = "use_nested_tensor"


def packing(model: nn.Module) -> list[nn.Module]:
    """The parts of ``model`` that pack padded batches for fused layers."""
    return [m for m in model.modules() if isinstance(m, nn.TransformerEncoder)]


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
