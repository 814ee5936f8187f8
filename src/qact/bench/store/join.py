"""Several benches side by side: those of one recipe become one, the others keep their own tables.

Two numbers belong into one table only if everything but what the table compares is the same: data,
network, training, corruptions, order of the images. Otherwise their difference would be put down to
the activation when it is the recipe's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from qact.bench.errors import RecipeError
from qact.bench.measure.metrics import METRICS, Row
from qact.bench.recipe.recipe import Recipe, differing
from qact.bench.recipe.rows import key_of
from qact.bench.recipe.shift import CLEAN, begins_anew
from qact.bench.store.results import Results


@dataclass(frozen=True)
class Group:
    """Benches of one recipe, joined: their title, and why they stand apart from the first."""

    results: Results
    title: str
    why: str


def side_by_side(benches: list[Results]) -> list[Group]:
    """Return the benches joined recipe by recipe, in the order of their first appearance.

    Raises:
        RecipeError: two benches of one recipe contradict each other.
    """
    parts: list[list[Results]] = []
    for bench in benches:
        same = [part for part in parts if not differences(part[0].recipe, bench.recipe)]
        if same:
            same[0].append(bench)
        else:
            parts.append([bench])
    first = parts[0][0].recipe
    return [
        Group(join(part), _title(part[0].recipe), differences(first, part[0].recipe))
        for part in parts
    ]


def join(benches: list[Results]) -> Results:
    """Return benches of one recipe as one: all activations and seeds, the corruptions they share.

    Raises:
        RecipeError: their recipes differ, an activation is another one, or a number is.
    """
    first = benches[0]
    for other in benches[1:]:
        why = differences(first.recipe, other.recipe)
        if why:
            raise RecipeError(f"two recipes do not belong into one table: {why}")
    recipe = _common([bench.recipe for bench in benches])
    joined = Results(recipe, environment=first.environment)
    rows: dict[tuple[Any, ...], Row] = {}
    for bench in benches:
        for name, about in bench.activations.items():
            if joined.activations.setdefault(name, about)["module"] != about["module"]:
                known = joined.activations[name]["module"]
                raise RecipeError(
                    f"{name} is {known} in one bench and {about['module']} in another"
                )
        for row in bench.rows:
            _agree(rows.setdefault(key_of(row), row), row)
        joined.cells = bench.cells | joined.cells
    joined.rows = list(rows.values())
    return joined


def differences(one: Recipe, other: Recipe) -> str:
    """Return in words what keeps two recipes apart; empty if nothing does.

    Example:
        >>> from qact.bench import Training
        >>> differences(Recipe(), Recipe(training=Training(epochs=3)))
        'training.epochs 15 / 3'
    """
    apart = differing(_decides(other), _decides(one))
    found = [f"{name} {ours} / {theirs}" for name, theirs, ours in apart]
    mixed = _mixtures(one), _mixtures(other)
    for images in set(mixed[0]) & set(mixed[1]):
        if mixed[0][images] != mixed[1][images]:
            through = (", ".join(mixture[images]) for mixture in mixed)
            found.append(f"streams through {' / '.join(through)}")
    ours, theirs = (set(recipe.shift.conditions()) - {CLEAN} for recipe in (one, other))
    if not found and (ours or theirs) and not ours & theirs:
        found.append("no corruption and severity in common")
    return ", ".join(found)


def _decides(recipe: Recipe) -> dict[str, Any]:
    """Return what must be the same in one table, flat."""
    whole = recipe.as_dict()
    parts = {f"{p}.{k}": v for p in ("data", "model", "training") for k, v in whole[p].items()}
    del parts["training.loss"]
    return parts | {f"shift.{name}": getattr(recipe.shift, name) for name in ("seed", "images")}


def _mixtures(recipe: Recipe) -> dict[int | None, tuple[str, ...]]:
    """Return, by the number of images, what streams run through that do not begin anew."""
    return {
        shift.images: shift.corruptions
        for shift in recipe.shifts()
        if not all(begins_anew(stream) for stream in shift.streams)
    }


def _common(recipes: list[Recipe]) -> Recipe:
    shifts = [recipe.shift for recipe in recipes]

    def shared(name: str) -> tuple[Any, ...]:
        others = [set(getattr(shift, name)) for shift in shifts]
        return tuple(v for v in getattr(shifts[0], name) if all(v in other for other in others))

    def every(lists: Iterable[Iterable[Any]]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(one for listed in lists for one in listed))

    return replace(
        recipes[0].of_losses(every(recipe.every_loss() for recipe in recipes)),
        activations=every(recipe.activations for recipe in recipes),
        seeds=tuple(sorted({seed for recipe in recipes for seed in recipe.seeds})),
        further=every(recipe.further for recipe in recipes),
        shift=replace(
            shifts[0],
            corruptions=shared("corruptions"),
            severities=shared("severities"),
            adaptations=every(shift.adaptations for shift in shifts),
            streams=every(shift.streams for shift in shifts),
        ),
    )


def _agree(known: Row, row: Row) -> None:
    if any(known[metric] != row[metric] for metric in METRICS):
        raise RecipeError(
            f"two benches measured {', '.join(map(str, key_of(row)))} and disagree (accuracy "
            f"{known['accuracy']:.4f} and {row['accuracy']:.4f}); one of them is of other code"
        )


def _title(recipe: Recipe) -> str:
    training = recipe.training
    return (
        f"{recipe.data.name}, {recipe.model.name} x{recipe.model.width_multiplier:g}, "
        f"{training.epochs} epochs of {training.optimizer}"
    )
