"""Ways through a model: what is inside what, and under which name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn


def joined(path: str, key: str) -> str:
    """``path.key``, or ``key`` at the root."""
    return f"{path}.{key}" if path else key


def outermost(
    model: nn.Module, is_one: Callable[[nn.Module], bool]
) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of every part that ``is_one``, none that lies inside another.

    Example:
        >>> net = nn.Sequential(nn.Sequential(nn.ReLU()), nn.ReLU())
        >>> [name for name, _ in outermost(net[0], lambda module: isinstance(module, nn.ReLU))]
        ['0']
        >>> [name for name, _ in outermost(net, lambda module: module is not net)]
        ['0', '1']
    """
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module not in inside and is_one(module):
            inside.update(module.modules())
            yield name, module
