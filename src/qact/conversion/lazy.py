"""`layer`: an activation as the `act_layer` of a model that is yet to be built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from qact.activations import Entry, activation, entry
from qact.nn.layer import QAct
from qact.nn.lazy import LazyQAct

# What autograd calls the operations that tell where the features stand.
LAST = ("AddmmBackward", "MmBackward", "BmmBackward", "LinearBackward", "NativeLayerNormBackward")
FIRST = ("ConvolutionBackward", "NativeBatchNormBackward", "CudnnBatchNormBackward")
TURNS = ("PermuteBackward", "TransposeBackward", "TBackward")
STEPS = 16


@dataclass(frozen=True)
class Layer:
    """A class in all but name: called without the number of channels, it returns a fresh layer."""

    to: str | type[nn.Module] | Entry | Callable[..., nn.Module]
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, num_features: int | None = None, **options: Any) -> nn.Module:
        """A fresh layer; ``inplace`` is accepted and has no effect where there is none."""
        given = dict(self.options) | options
        known = entry(self.to) if isinstance(self.to, str) else self.to
        make = known.make if isinstance(known, Entry) else known
        if make is QAct:
            given.pop("inplace", None)
            return OpenQAct(**given) if num_features is None else QAct(num_features, **given)
        if isinstance(known, Entry):
            return known(num_features, **given)
        return activation(known, num_features, **given)

    @property
    def __name__(self) -> str:
        return self.to if isinstance(self.to, str) else getattr(self.to, "__name__", repr(self.to))


def layer(to: str | type[nn.Module] | Entry = "qact", **options: Any) -> Layer:
    """Return an activation as a class that other libraries take: ``act_layer=layer("qact")``.

    What it returns is called as ``act_layer()`` or ``act_layer(inplace=True)`` and makes a fresh
    activation each time. A QAct takes its channels from its first input, and with them, unless
    ``dim`` is given, their dimension: -1 where autograd says that a product with a matrix made the
    input, 1 where it says a convolution or BatchNorm; without a gradient -1 for three dimensions
    and 1 for others. So let the first batch run with gradients, as in training, or give ``dim``.

    Args:
        to: a name of :func:`qact.list_activations`, an entry, or a module class.
        **options: of the activation.

    Raises:
        ValueError: the name is unknown; when called: the activation needs ``num_features`` and
            cannot find it itself. Then build the model first and use :func:`qact.convert`.

    Example:
        >>> act_layer = layer("qact", levels="gelu")
        >>> mlp = nn.Sequential(nn.Linear(4, 8), act_layer(inplace=True), nn.Linear(8, 2))
        >>> _ = mlp(__import__("torch").randn(16, 5, 4))
        >>> mlp[1].num_features, mlp[1].dim
        (8, -1)
    """
    if isinstance(to, str):
        entry(to)
    elif not isinstance(to, Entry) and not (isinstance(to, type) and issubclass(to, nn.Module)):
        raise TypeError(f"to={to!r} must be a registered name, an entry or a module class")
    return Layer(to, tuple(options.items()))


class OpenQAct(LazyQAct):
    """A :class:`qact.LazyQAct` that, unless told, also takes its dimension from its first input."""

    cls_to_become = QAct

    def __init__(self, dim: int | None = None, **options: Any) -> None:
        super().__init__(dim=1 if dim is None else dim, **options)
        self._open = dim is None

    def initialize_parameters(self, input: Tensor) -> None:
        """Take the dimension and the number of channels from ``input``."""
        if self._open:
            self._open = False
            self.dim = dim_of(input)
            if self.num_features not in (0, input.shape[self.dim]):  # a state was loaded before
                self.dim = next((d for d in (1, -1) if input.shape[d] == self.num_features), 1)
        super().initialize_parameters(input)


def dim_of(input: Tensor) -> int:
    """The channel dimension by what made ``input``, else by the number of its dimensions."""
    node: Any = input.grad_fn
    for _ in range(STEPS):
        name = "" if node is None else node.name()
        if name.startswith(LAST):
            return -1
        if name.startswith(FIRST) or name.startswith(TURNS) or not name:
            break
        node = node.next_functions[0][0] if node.next_functions else None
    else:
        name = ""
    if name.startswith(FIRST):
        return 1
    return -1 if input.dim() == 3 or input.dim() == 1 else 1
