"""Where activations stand in a model: as modules, as functions held, and as calls in `forward`."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from qact.conversion import functions
from qact.surgery import joined

# What computes a parameter, and what cannot be edited.
CLOSED = (ParametrizationList, torch.jit.ScriptModule)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Use:
    """One call of an activation in the dry run."""

    shape: tuple[int, ...]
    dim: int
    device: torch.device
    same_shape: bool

    @property
    def channels(self) -> int:
        """Size at ``dim``."""
        return self.shape[self.dim]


@dataclass(frozen=True)
class Event:
    """An activation at work in the forward of an owner; a call has a name, a module does not."""

    what: nn.Module
    name: str | None = None
    use: Use | None = None
    hint: int | None = None


@dataclass(eq=False)
class Site:
    """One place where an activation works.

    Args:
        name: dotted path of the layer that stands there, or will.
        module: the activation; for a call, the module that does the same.
        owner: the module whose attribute, or whose ``forward``, it is.
        key: name of the attribute in the owner.
        kind: ``"module"``, ``"function"`` (held as an attribute), ``"call"``, or ``"repeat"``
            (a further use of a module that its owner calls several times).
        asked: the name that ``where`` is asked about.
        uses: what the dry run saw of it.
        hint: without a dry run, the channel dimension by the layer before it in a trace.
    """

    name: str
    module: nn.Module
    owner: nn.Module
    key: str
    kind: str
    asked: str
    uses: list[Use] = field(default_factory=list)
    hint: int | None = None

    @property
    def path(self) -> str:
        """Path of the owner."""
        return self.name[: -len(self.key)].rstrip(".")


def owners(path: str, module: nn.Module, acts: set[nn.Module]) -> dict[nn.Module, str]:
    """Modules whose forward may call an activation, with the first path of each.

    What is inside an activation or computes a parameter is none of them.
    """
    found: dict[nn.Module, str] = {}
    _collect(path, module, acts, found)
    return found


def _collect(
    path: str, module: nn.Module, acts: set[nn.Module], found: dict[nn.Module, str]
) -> None:
    if module in found or module in acts or isinstance(module, CLOSED):
        return
    found[module] = path
    for key, child in module._modules.items():
        if child is not None:
            _collect(joined(path, key), child, acts, found)


def held(owner: nn.Module, name: str) -> list[str]:
    """Attributes of ``owner`` that hold a function of torch with this meaning."""
    return [
        key
        for key, value in vars(owner).items()
        if not isinstance(value, str) and functions.spelled(value) == name
    ]


def free(owner: nn.Module, stem: str, taken: set[str]) -> str:
    """A name for a new layer that ``owner`` has no attribute of."""
    key, count = stem, 0
    while key in taken or hasattr(owner, key):
        count += 1
        key = f"{stem}_{count}"
    taken.add(key)
    return key


def within(owner: nn.Module) -> set[nn.Module]:
    """``owner`` and the lists, dicts and sequences in it, whose items its forward may call."""
    found = {owner}
    for child in owner._modules.values():
        if child is not None and type(child) in CONTAINERS:
            found |= within(child)
    return found
