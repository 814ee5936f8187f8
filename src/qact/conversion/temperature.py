"""Warm start of a map: its temperature, fitted so that weights are nearest to those of softmax."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from qact import weights as maps

ROWS = 2048  # of scores per head, enough for one number


@torch.no_grad()
def temper(module: nn.Module, scores: list[Tensor], name: str) -> float:
    """Set the temperature of ``module`` by least squares; return the share that is explained.

    Tried are 25 values from a thirtieth to thirty times where it stands, then 25 between the
    neighbours of the best; a number per head is fitted for each.

    Args:
        module: a map of :mod:`qact.weights` whose entry names a ``temperature``.
        scores: batches (N, H, L, S) of what softmax was given, masks of ``-inf`` included.
        name: of the place, for errors.

    Raises:
        ValueError: the map has no temperature, or there are no scores.
    """
    entry = maps.entry_of(module)
    known = "" if entry is None else entry.temperature
    if not known:
        raise ValueError(
            f"warm_start fits a temperature, and the map of {name!r} has none; those of "
            f"{', '.join(n for n in maps.names() if maps.entry(n).temperature)} have: leave "
            "warm_start out"
        )
    if not scores:
        raise ValueError(f"warm_start gave {name!r} no scores")
    fields = [_Field(z[: max(1, ROWS // z.shape[-2])]) for z in scores[:4]]
    heads = scores[0].shape[1]
    best = torch.full((heads,), float(_get(module, known).mean()), dtype=torch.float32)
    for factor in (30 ** (1 / 12), 30 ** (1 / 144)):  # the second grid spans a step of the first
        tried = (
            best * factor ** torch.arange(-12.0, 13.0, dtype=torch.float32)[:, None]
        )  # (25, heads)
        errors = torch.stack([_error(module, known, row, fields) for row in tried])
        if not _per_head(module):
            errors = errors.sum(1, keepdim=True).expand(-1, heads)
        best = tried.gather(0, errors.argmin(0, keepdim=True))[0]
    left = _error(module, known, best, fields).sum()
    return float(1 - left / sum(field.spread for field in fields))


class _Field:
    """Scores, the weights of softmax, and how far those are from even ones."""

    def __init__(self, scores: Tensor) -> None:
        self.scores, self.weights = scores, maps.softmax(scores)
        even = maps.softmax(torch.zeros_like(scores).masked_fill(scores == -torch.inf, -torch.inf))
        self.spread = float((self.weights - even).square().sum()) or 1.0


def _per_head(module: nn.Module) -> bool:
    return not isinstance(module, maps.Map) and getattr(module, "heads", 1) > 1


def _get(module: Any, known: str) -> Tensor:
    if isinstance(module, maps.Map):
        usual = inspect.signature(module.function).parameters[known].default
        return torch.tensor(float(module.options.get(known, usual)), dtype=torch.float32)
    value: Tensor = getattr(module, known)
    return value


def _error(module: Any, known: str, values: Tensor, fields: list[_Field]) -> Tensor:
    """Squared differences per head (H,), after the temperature was set to ``values``."""
    if isinstance(module, maps.Map):
        module.options[known] = float(values[0])
    else:
        getattr(module, known).copy_(values[: getattr(module, known).numel()])
    parts = [(module(f.scores) - f.weights).square().sum((0, 2, 3)) for f in fields]
    return torch.stack(parts).sum(0)
