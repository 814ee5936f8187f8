"""A network in training as a file of tensors: no pickle, so a checkpoint cannot run code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qact.bench.data import changed
from qact.bench.errors import DamagedFileError, RecipeError
from qact.bench.recipe.recipe import difference
from qact.bench.store.files import load_notes, load_tensors, save_tensors

Print = dict[str, list[Any]]  # of :meth:`qact.bench.data.Inputs.print_of`
History = list[dict[str, float]]  # one entry per epoch

FINISHED, BEGUN = "weights.safetensors", "checkpoint.safetensors"


def val_scores(history: History) -> list[float]:
    """Return the validation accuracy of every epoch; empty where no image was left for it.

    Example:
        >>> val_scores([{"loss": 1.0, "val_accuracy": 0.5}]), val_scores([{"loss": 1.0}])
        ([0.5], [])
    """
    return [entry["val_accuracy"] for entry in history if "val_accuracy" in entry]


def save(
    path: Path,
    cell: dict[str, Any],
    history: History,
    models: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer | None = None,
    data: Print | None = None,
) -> None:
    """Write weights, buffers and optimiser state with the identity of the cell, atomically.

    ``models`` are networks of one build by name: ``"model"``, and what is kept beside it; ``data``
    is by what to know again what they are trained on.
    """
    tensors = {f"{k}.{n}": v for k, model in models.items() for n, v in _state(model).items()}
    if optimizer is not None:
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if v is not None}
    told = {"cell": cell, "history": history, "data": data or {}}
    save_tensors(path, tensors, {name: json.dumps(value) for name, value in told.items()})


def restore(
    path: Path,
    cell: dict[str, Any],
    models: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer | None = None,
    data: Print | None = None,
) -> History:
    """Load what :func:`save` wrote into ``models`` and ``optimizer``; return the history.

    Raises:
        DamagedFileError: the file is truncated or altered.
        RecipeError: it was written for another recipe or activation, or with other data.
    """
    tensors, notes = load_tensors(path)
    found = json.loads(notes.get("cell", "null"))
    if other := difference(found, json.loads(json.dumps(cell)), "recipe" if found is None else ""):
        raise RecipeError(f"{path} was trained otherwise ({other}); choose another --out")
    if changed(json.loads(notes.get("data", "{}")), data or {}):  # older files do not say
        name = found["data"]["name"]
        raise RecipeError(f"{path} was trained on other images or labels than {name!r} has now")
    for name, model in models.items():
        state = {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{name}.")}
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise DamagedFileError(f"{path} does not fit the network: {error}") from error
    if optimizer is not None:
        _restore_optimizer(optimizer, tensors)
    return json.loads(notes["history"])


def epochs_done(folder: Path) -> int | None:
    """Return how many epochs a cell has behind it; None if it is finished.

    It is for estimates: a file that cannot be read counts as nothing done, and whoever restores it
    says what is wrong.
    """
    if (folder / FINISHED).exists():
        return None
    try:
        return len(json.loads(load_notes(folder / BEGUN)["history"]))
    except (DamagedFileError, KeyError, ValueError):
        return 0


def _state(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise RecipeError(f"state that is no tensor cannot be saved: {', '.join(odd)}")
    return state


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
