"""Batches as loaders give them: tensors, pairs with labels, and mappings of named arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from qact._compat import tree_map_only
from qact.surgery.wrapped import inner

FORMS = (
    "tensors, tuples or lists that begin with the input, or mappings of named arguments of forward"
)


def batches(source: Any, name: str = "batches") -> Iterator[Any]:
    """Return the batches of a loader; a tensor or a mapping alone is one batch.

    Args:
        source: what a caller gave as ``name``.

    Raises:
        TypeError: it holds no batches.
    """
    if isinstance(source, Tensor | Mapping):
        return iter([source])
    if not isinstance(source, Iterable) or isinstance(source, str):
        raise TypeError(f"{name}={source!r} must be a batch, or an iterable of batches: {FORMS}")
    return iter(source)


def arguments(batch: Any, model: nn.Module) -> tuple[Any, ...] | dict[str, Any]:
    """What of a batch ``model`` is called with, on its device: a tuple, or a dict of named ones.

    Of a tuple or list the first element is the input, and what follows, labels say, is left out.
    The input may be a tensor, a tuple or list of tensors (several arguments), or a mapping (named
    arguments). Of a mapping, what ``forward`` has no argument for is left out, as the trainers of
    transformers do.

    Raises:
        TypeError: the batch has none of these forms. ValueError: ``forward`` takes nothing of it.

    Example:
        >>> import torch
        >>> x, y = torch.ones(2, 3), torch.zeros(2)
        >>> len(arguments((x, y), nn.Linear(3, 1))), [*arguments({"input": x, "y": y}, nn.ReLU())]
        (1, ['input'])
    """
    if isinstance(batch, Mapping):
        return _moved(_named(batch, model), model)
    if isinstance(batch, Tensor):
        return _moved((batch,), model)
    first = batch[0] if isinstance(batch, tuple | list) and batch else None
    if isinstance(first, tuple | list) and first and isinstance(first[0], Tensor):
        return _moved(tuple(first), model)
    if isinstance(first, Tensor | Mapping):
        return arguments(first, model)
    raise TypeError(f"the loader yields {_shown(batch)}; give {FORMS}")


def call(model: nn.Module, batch: Any) -> Any:
    """Return the output of ``model`` for a batch in the form that loaders give it.

    Raises:
        TypeError, ValueError: as :func:`arguments`.
    """
    given = arguments(batch, model)
    return model(**given) if isinstance(given, dict) else model(*given)


def call_all(model: nn.Module, source: Any, name: str = "batches") -> int:
    """Pass every batch of a loader through ``model``; return how many there were.

    Raises:
        TypeError, ValueError: as :func:`batches` and :func:`arguments`.
    """
    count = 0
    for batch in batches(source, name):
        call(model, batch)
        count += 1
    return count


def _named(batch: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """What ``forward`` has arguments for."""
    known = inspect.signature(inner(model).forward).parameters
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return dict(batch)
    found = {key: value for key, value in batch.items() if key in known}
    if not found:
        raise ValueError(
            f"forward of {type(inner(model)).__name__} takes {', '.join(known)}; "
            f"the batch has {', '.join(map(repr, batch))}"
        )
    return found


def _moved(value: Any, model: nn.Module) -> Any:
    own = next(model.parameters(), None)
    if own is None:
        return value
    return tree_map_only(Tensor, lambda tensor: tensor.to(own.device), value)


def _shown(batch: Any) -> str:
    if isinstance(batch, tuple | list):
        return f"{type(batch).__name__} of ({', '.join(type(part).__name__ for part in batch)})"
    return type(batch).__name__
