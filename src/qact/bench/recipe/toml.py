"""Recipes as files: TOML with the sections and names of the dataclasses in :mod:`qact.bench`.

    activations = ["relu", "qact"]
    seeds = [0, 1, 2]

    [data]
    name = "cifar10"

    [model]
    name = "resnet18"
    width_multiplier = 0.25

    [training]
    preset = "modern"      # what is not said below
    epochs = 30

Every ``[[further]]`` is one more section like ``[shift]``, measured on the same networks. What a
file does not say has the default of the dataclass.
"""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from qact.bench.errors import RecipeError
from qact.bench.recipe.presets import preset
from qact.bench.recipe.recipe import Recipe
from qact.bench.recipe.shift import Shift, present_names

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SECTIONS = ("data", "model", "training", "shift")
LISTS = ("activations", "losses", "seeds")


def load_recipe(path: Path, base: Recipe | None = None) -> Recipe:
    """Read a recipe; what the file does not say is that of ``base``.

    Raises:
        RecipeError: not TOML, or a name or value that no recipe has; it says where and what would
            be right.
        FileNotFoundError: there is no such file.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not TOML, or not UTF-8
        raise RecipeError(f"{path} is not TOML: {error}") from error
    except IsADirectoryError as error:
        raise RecipeError(f"{path} is a folder, not a recipe") from error
    try:
        return changed(base or Recipe(), found)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """Return the recipe with nested changes, as :func:`load_recipe` finds them in a file.

    Example:
        >>> changed(Recipe(), {"training": {"preset": "paper", "epochs": 3}}).training.schedule
        'plateau'
    """
    _known("", changes, (*SECTIONS, "further", *LISTS))
    parts: dict[str, Any] = {}
    for name, values in changes.items():
        if name in SECTIONS:
            parts[name] = _section(name, getattr(recipe, name), values)
        else:
            parts[name] = _listed(name, values)
    if "further" in parts:
        usual = Shift(seed=parts.get("shift", recipe.shift).seed)
        parts["further"] = tuple(_section("further", usual, one) for one in parts["further"])
    return replace(recipe, **parts)


def recipe_of(base: Recipe, file: Path | None, preset: str | None, flags: dict[str, Any]) -> Recipe:
    """Return the recipe of a file, or ``base``, with a preset and flags over it.

    ``flags`` are named ``"section.option"``, or ``"activations"`` and ``"seeds"``; None and empty
    ones were not given. A flag beats the preset, the preset beats the file.
    """
    recipe = load_recipe(file, base) if file is not None else base
    if preset is not None:
        recipe = changed(recipe, {"training": {"preset": preset}})
    changes: dict[str, Any] = {}
    for name, value in flags.items():
        if value is None or value in ((), []):
            continue
        section, _, option = name.partition(".")
        if option:
            changes.setdefault(section, {})[option] = value
        else:
            changes[section] = value
    return changed(recipe, changes)


def _section(name: str, part: Any, values: Any) -> Any:
    if not isinstance(values, dict):
        raise RecipeError(f"{name} must be a section [{name}], got {values!r}")
    values = present_names(values) if isinstance(part, Shift) else dict(values)
    if name == "training" and "preset" in values:
        part = preset(values.pop("preset"))
    known = [field.name for field in fields(part)]
    _known(f"{name}.", values, known + ["preset"] * (name == "training"))
    try:
        listed = {k for k in values if isinstance(getattr(part, k), tuple)}
        whole = {k: _listed(f"{name}.{k}", v) if k in listed else v for k, v in values.items()}
        return replace(part, **whole)
    except TypeError as error:  # a list where a number belongs, and the like
        raise RecipeError(f"[{name}]: {error}") from error


def _listed(name: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple):
        raise RecipeError(f"{name} must be a list, got {values!r}")
    return tuple(values)


def _known(where: str, found: dict[str, Any], known: Any) -> None:
    for name in found:
        if name not in known:
            raise RecipeError(f"unknown {where}{name}; known: {', '.join(known)}")
