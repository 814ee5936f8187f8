"""Which layers count as normalisation, and which of their parameters may be adapted."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from qact.nn.layer import QAct
from qact.surgery import is_norm
from qact.surgery.where import named


def norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of every normalisation layer; QAct is one."""
    for name, module in model.named_modules():
        if is_norm(module) or isinstance(module, QAct):
            yield name, module


def has_norms(model: nn.Module) -> bool:
    """Whether there is one."""
    return any(True for _ in norms(model))


def affine_parameters(
    model: nn.Module, without: tuple[str, ...] = ()
) -> list[tuple[str, nn.Parameter]]:
    """Scales and shifts of the normalisation layers, without those that are named.

    ``without`` has names, patterns, and names of modules around some.

    Raises:
        ValueError: there is none.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.LayerNorm(3))
        >>> [name for name, _ in affine_parameters(model, without=("2",))]
        ['1.weight', '1.bias']
    """
    found = []
    for name, module in norms(model):
        if any(named(part, name) for part in without):
            continue
        for kind, parameter in module.named_parameters(recurse=False):
            if kind in ("weight", "bias"):
                found.append((f"{name}.{kind}" if name else kind, parameter))
    if not found:
        where = f" outside of {', '.join(without)}" if without else ""
        raise ValueError(
            f"no normalisation layer of {type(model).__name__}{where} has a scale or shift to learn"
        )
    return found
