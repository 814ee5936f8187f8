"""A network in training as a file of tensors: no pickle, so a checkpoint cannot run code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qact.bench.errors import DamagedFileError, RecipeError
from qact.bench.files import load_tensors, save_tensors

History = list[dict[str, float]]  # one entry per epoch


def save(
    path: Path,
    cell: dict[str, Any],
    history: History,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Write weights, buffers and optimiser state with the identity of the cell, atomically."""
    tensors = {f"model.{name}": value for name, value in _state(model).items()}
    if optimizer is not None:
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if v is not None}
    save_tensors(path, tensors, {"cell": json.dumps(cell), "history": json.dumps(history)})


def restore(
    path: Path,
    cell: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
) -> History:
    """Load what :func:`save` wrote into ``model`` and ``optimizer``; return the history.

    Raises:
        DamagedFileError: the file is truncated or altered.
        RecipeError: it was written for another recipe or activation.
    """
    tensors, notes = load_tensors(path)
    found = json.loads(notes.get("cell", "null"))
    if found != json.loads(json.dumps(cell)):
        raise RecipeError(
            f"{path} was trained otherwise: {found}, not {cell}. Choose another --out"
        )
    state = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise DamagedFileError(f"{path} does not fit the network: {error}") from error
    if optimizer is not None:
        _restore_optimizer(optimizer, tensors)
    return json.loads(notes["history"])


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
