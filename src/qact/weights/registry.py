"""Maps from scores to weights by name, each with its paper, its formula and what it promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from qact import registry
from qact.weights.module import Map, Weights

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry(registry.FormulaEntry):
    """What the registry knows of a map.

    Args:
        name: as in :func:`create`.
        make: class or function that returns a fresh :class:`Weights`, a module.
        paper: where it comes from, with the equation.
        formula: the map, in one line.
        family: the file it stands in.
        parameters: names of what it trains.
        simplex: weights are at least 0 and sum to 1.
        sparse: weights can be exactly 0 where nothing is masked.
        shift: ``z + c`` has the weights of ``z``.
        scale: ``c z`` with ``c > 0`` has the weights of ``z``.
        ordered: a larger score has no smaller weight.
        random: weights are drawn.
        temperature: name of the option that sharpens: a warm start fits it.
        needs: what must be given beside the scores, an option without a default.
        onnx: it can be exported, and a runtime gives the same weights.
    """

    parameters: tuple[str, ...] = ()
    simplex: bool = True
    sparse: bool = False
    shift: bool = True
    scale: bool = False
    ordered: bool = True
    random: bool = False
    temperature: str = ""
    needs: tuple[str, ...] = ()
    onnx: bool = True


WEIGHTS = registry.Registry("weight map", Entry, room="qact.weights")
register = WEIGHTS.register
entry = WEIGHTS.__getitem__
names = WEIGHTS.names
create = WEIGHTS.create


def entry_of(module: Any) -> Entry | None:
    """Return the entry of the map that ``module`` is, or None.

    Example:
        >>> entry_of(create("ssmax")).name
        'ssmax'
    """
    if isinstance(module, Map):
        return entry(module.name) if module.name in WEIGHTS else None
    return next((found for found in map(entry, names()) if found.make is type(module)), None)


def mapped(name: str, **facts: Any) -> Callable[[Function], Function]:
    """Enter a function ``f(scores, dim, mask, **options)`` as ``name``: its module is a Map."""

    def enter(function: Function) -> Function:
        def make(dim: int = -1, **options: Any) -> Weights:
            return Map(name, function, dim, options)

        make.__module__ = function.__module__
        WEIGHTS.add(name, make, **facts)
        return function

    return enter
