"""Which parts of a model are in training and which parameters have gradients, to be put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Function = TypeVar("Function", bound=Callable[..., Any])


def lasting(function: Function) -> Function:
    """Run a function that makes or fits modules outside of ``torch.inference_mode``.

    What is made in that mode can never be trained. Tensors that the function is given and that
    were made there are copied, so that gradients may pass them.

    Example:
        >>> with torch.inference_mode():
        ...     usual, made = nn.Linear(2, 3), lasting(nn.Linear)(2, 3)
        >>> usual.weight.is_inference(), made.weight.is_inference()
        (True, False)
    """

    @wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        grad = torch.is_inference_mode_enabled() or torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(grad):
            named = {name: _ordinary(value) for name, value in options.items()}
            return function(*map(_ordinary, args), **named)

    return run  # type: ignore[return-value]


def _ordinary(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


@contextmanager
def evaluating(model: nn.Module, *, training: bool = False) -> Iterator[nn.Module]:
    """``eval()`` for the length of a block; every module's own flag comes back, whatever happens.

    The flags are set as such: ``train()`` and ``eval()``, which some modules use for other things,
    are not called.

    Args:
        training: the other mode.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
        >>> with evaluating(model):
        ...     model[0].training
        False
        >>> model[0].training, model[1].training
        (True, False)
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = training
        yield model
    finally:
        for module, before in flags:
            module.training = before


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Let no parameter have a gradient for a block; then each is as it was."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield model.requires_grad_(False)
    finally:
        for parameter, before in flags:
            parameter.requires_grad_(before)


@dataclass(frozen=True)
class Flags:
    """The flags of a model by name, so that a copy of it can have them too.

    Args:
        training: of every module.
        requires_grad: of every parameter.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval())
        >>> flags = Flags.of(model)
        >>> flags.restore(model.eval().requires_grad_(False))[1].training, model[0].training
        (False, True)
    """

    training: dict[str, bool]
    requires_grad: dict[str, bool]

    @classmethod
    def of(cls, model: nn.Module) -> Flags:
        """Those that ``model`` has now."""
        return cls(
            {name: module.training for name, module in model.named_modules()},
            {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        )

    def restore(self, model: nn.Module) -> nn.Module:
        """Put them back; gradients go."""
        for name, module in model.named_modules():
            module.training = self.training.get(name, module.training)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.requires_grad[name])
            parameter.grad = None
        return model
