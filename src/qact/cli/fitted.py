"""What is usual, and was not asked for, fitted to few images; and said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from qact.bench import Recipe


def trainable(recipe: Recipe, usual: Recipe, console: Console) -> Recipe:
    """Return the recipe with what is usual, and not asked for, fitted to few images."""
    from dataclasses import replace

    from qact.bench.data import load_inputs

    sizes, asked = load_inputs(recipe.data).sizes(), recipe.training
    training = asked
    if asked.batch == usual.training.batch:
        training = training.fitted(sizes["train"])
        what = f"{sizes['train']} training images: batches of"
        say_fitted(what, (asked.batch,), (training.batch,), console)
    if not sizes["val"] and asked.watches == usual.training.watches:
        training = training.blind()
        if asked.watches:
            say_fitted("no validation images:", (asked.watches,), ("the last epoch",), console)
    return replace(recipe, training=training)


def say_fitted(
    what: str, usual: tuple[Any, ...], fitted: tuple[Any, ...], console: Console
) -> None:
    """Say that a usual value was fitted, if it was."""
    if usual != fitted:
        old, new = (", ".join(map(str, values)) for values in (usual, fitted))
        console.print(f"{what} {new} instead of {old}", highlight=False, soft_wrap=True)
