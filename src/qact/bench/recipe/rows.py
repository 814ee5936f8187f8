"""Which rows a recipe asks for, and what makes each of them unique."""

from __future__ import annotations

from typing import Any

from qact.bench.errors import RecipeError
from qact.bench.measure.metrics import Row
from qact.bench.recipe.recipe import Recipe
from qact.bench.recipe.shift import ALL

KEY = ("activation", "loss", "adaptation", "stream", "corruption", "severity", "seed", "images")

Key = tuple[Any, ...]


def key_of(row: Row) -> Key:
    """Return what makes a row unique."""
    return tuple(row[name] for name in KEY)


def wanted(recipe: Recipe, activation: str, loss: str, seed: int) -> list[Key]:
    """Return the keys of all rows of a cell, condition by condition.

    ``images`` is how many of the first test images are used; None for all.

    Example:
        >>> from qact.bench import Recipe
        >>> wanted(Recipe(), "relu", "cross_entropy", 0)[0]
        ('relu', 'cross_entropy', 'frozen', 'iid', 'none', 0, 0, None)
    """
    keys = [
        (activation, loss, adaptation, stream, corruption, severity, seed, shift.images)
        for shift in recipe.shifts()
        for stream in shift.streams
        for corruption, severity in shift.conditions(stream)
        for adaptation in shift.adaptations
    ]
    return list(dict.fromkeys(keys))


def mixture(recipe: Recipe, key: Key) -> tuple[str, ...]:
    """Return the corruptions of a row: its own, or all that its stream runs through."""
    named = dict(zip(KEY, key, strict=True))
    if named["corruption"] != ALL:
        return (named["corruption"],)
    for shift in recipe.shifts():
        if (
            named["images"] == shift.images
            and named["stream"] in shift.streams
            and named["adaptation"] in shift.adaptations
        ):
            return shift.corruptions
    raise RecipeError(f"no shift of the recipe has the row {key}")
