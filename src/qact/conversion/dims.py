"""Which dimension holds the channels: followed through one pass from the layer that wrote them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from qact._compat import tree_leaves, without_torch_function


def _named(*names: str) -> set[Any]:
    """The functions of torch that have one of these names."""
    homes = (F, torch, Tensor)
    return {getattr(home, name) for home in homes for name in names if hasattr(home, name)}


# Features stand last behind a product with a matrix, and at dim 1 behind a convolution.
LAST = _named(
    *("linear", "layer_norm", "rms_norm", "embedding", "mm", "addmm", "matmul", "__matmul__")
)
FIRST = _named(
    *(f"conv{n}d" for n in (1, 2, 3)),
    *(f"conv_transpose{n}d" for n in (1, 2, 3)),
    *("batch_norm", "group_norm", "instance_norm"),
)
PERMUTE = _named("permute")
SWAP = _named("transpose", "swapaxes", "swapdims")
MOVE = _named("movedim", "moveaxis")
TRANSPOSED = {Tensor.T.__get__, Tensor.mT.__get__}  # type: ignore[attr-defined]


class Dims(TorchFunctionMode):
    """Knows the channel dimension of every tensor that comes from a layer with weights.

    ``called(function, input, args, kwargs, output)`` is told of every call of torch.
    """

    def __init__(self, called: Callable[..., None]) -> None:
        super().__init__()
        self.called = called
        self._of: Any = WeakTensorKeyDictionary()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # In place, the input is gone afterwards: what is known of it is read before.
        source = next((t for t in _tensors(args, kwargs) if t in self._of), None)
        before = None if source is None else (tuple(source.shape), self._of[source])
        shape = tuple(args[0].shape) if args and isinstance(args[0], Tensor) else None
        dim = self.dim(args[0]) if shape else 1
        output = func(*args, **kwargs)
        for result in _tensors((output,), {}):
            found = _dim_of(func, args, kwargs, before, tuple(result.shape))
            if found is not None:
                self._of[result] = found
        if shape is not None and isinstance(output, Tensor):
            self.called(func, (shape, dim, args[0]), args[1:], kwargs, output)
        return output

    def dim(self, input: Tensor) -> int:
        """The channel dimension of ``input``; 1 where no layer has said anything."""
        return self._of.get(input, 1 if input.dim() > 1 else -1)


def _tensors(args: Any, kwargs: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))


def _dim_of(
    func: Any, args: Any, kwargs: Any, before: tuple[Any, int] | None, shape: tuple[int, ...]
) -> int | None:
    """The channel dimension of a result of ``shape``; negative ones count from the end."""
    if func in LAST:
        return -1
    if func in FIRST:
        return 1
    if before is None or not shape:
        return None
    old, dim = before
    place = dim % len(old)
    if func in PERMUTE | SWAP | MOVE | TRANSPOSED:
        order = _order(func, args, kwargs, len(old))
        return None if order is None else _signed(order.index(place), len(shape))
    return _kept(old, shape, dim, place)


def _order(func: Any, args: Any, kwargs: Any, n: int) -> list[int] | None:
    """Where each dimension of the result comes from."""
    try:
        with without_torch_function():
            probe = torch.empty(tuple(range(2, n + 2)), device="meta")
            return [size - 2 for size in func(probe, *args[1:], **kwargs).shape]
    except (TypeError, RuntimeError, IndexError):
        return None


def _kept(old: tuple[int, ...], new: tuple[int, ...], dim: int, place: int) -> int | None:
    """Where the channels are when an operation changed the shape but not the order."""
    if len(old) == len(new) and all(
        a == b for i, (a, b) in enumerate(zip(old, new, strict=True)) if i != place
    ):
        return dim
    head, tail = place + 1, len(old) - place
    if dim >= 0 and old[:head] == new[:head]:
        return dim
    if old[-tail:] == new[-tail:]:
        return -tail
    return place if old[:head] == new[:head] else None


def _signed(place: int, n: int) -> int:
    return -1 if place == n - 1 and n > 1 else place
