"""Interval bounds: what a box around the input can become, layer by layer."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qact import checks, surgery
from qact.nn.layer import QAct
from qact.nn.normed import NormedQAct
from qact.scores.gradients import Differentiating
from qact.scores.outputs import Outputs
from qact.scores.registry import register


class Box(NamedTuple):
    """Bounds of every value, ``low <= x <= high``."""

    low: Tensor
    high: Tensor

    @classmethod
    def about(cls, middle: Tensor, radius: Tensor | float) -> Box:
        """The box of a radius."""
        return cls(middle - radius, middle + radius)

    def each(self, function: Callable[[Tensor], Tensor]) -> Box:
        """Under a function that grows with every value, or only moves values about."""
        return Box(function(self.low), function(self.high))


# Each grows with every one of its inputs, so it maps corners to corners.
GROWING = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.Sigmoid, nn.Tanh, nn.Softplus),
    *(nn.Hardtanh, nn.Hardsigmoid, nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d),
)
GROWING_CALLS = {
    *(torch.flatten, torch.relu, F.relu, torch.sigmoid, torch.tanh, F.avg_pool2d, F.max_pool2d),
    *(F.adaptive_avg_pool2d, "flatten", "view", "reshape", "mean", "relu", "contiguous", "squeeze"),
}
SUMS = {operator.add, torch.add, operator.iadd, "add", "add_"}
LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d)


class Tracer(fx.Tracer):
    """Goes into the model's own modules, and takes activations of this package as one step."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """What bounds are known of, and all of torch's own."""
        return isinstance(module, QAct | NormedQAct) or super().is_leaf_module(module, name)


class Bounds(fx.Interpreter):
    """Run a traced model on boxes: ``Bounds(model)(low, high)`` returns the bounds of its output.

    Linear layers and convolutions by ``W m +- |W| r`` of the box's middle ``m`` and radius ``r``;
    norms in ``eval()`` by the sign of their scale; activations that grow by their corners; sums of
    boxes. A :class:`qact.QAct` with a stored context is an activation that grows.

    Raises:
        NotImplementedError: the model has an operation that is none of these.
    """

    def __init__(self, model: nn.Module) -> None:
        traced = Tracer().trace(surgery.inner(model))
        super().__init__(fx.GraphModule(surgery.inner(model), traced))

    @torch.no_grad()
    def __call__(self, low: Tensor, high: Tensor) -> Box:
        """Bounds of the output for inputs in a box; corners must have one shape."""
        if low.shape != high.shape or (low > high).any():
            raise ValueError("low and high must have one shape, with low <= high")
        return self.run(Box(low, high))

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One layer."""
        module: Any = self.fetch_attr(str(target))
        box = args[0]
        if isinstance(module, LINEAR):
            return _linear(module, box)
        if isinstance(module, QAct | NormedQAct):
            return _sorted(module, box)
        if surgery.is_norm(module) and getattr(module, "running_var", None) is not None:
            return _sorted(module, box)  # per channel it grows or falls: either corner is an end
        if isinstance(module, GROWING):
            return box.each(module)
        raise NotImplementedError(f"no interval bounds of {type(module).__name__} ({target})")

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A function or a sum."""
        if target in SUMS:
            a, b = args[:2]
            both = isinstance(a, Box) and isinstance(b, Box)
            return Box(a.low + b.low, a.high + b.high) if both else _shifted(a, b)
        if target in GROWING_CALLS:
            return args[0].each(lambda z: super_call(target, z, *args[1:], **kwargs))
        if not any(isinstance(a, Box) for a in args):
            return target(*args, **kwargs)
        raise NotImplementedError(f"no interval bounds of {target}")

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A method of a tensor: its size, or one that grows."""
        if target in ("size", "dim"):
            return getattr(args[0].low, str(target))(*args[1:], **kwargs)
        return self.call_function(target, args, kwargs)


def super_call(target: Any, z: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A function, or a method by its name."""
    if isinstance(target, str):
        return getattr(z, target)(*args, **kwargs)
    return target(z, *args, **kwargs)


def _shifted(a: Any, b: Any) -> Box:
    box, by = (a, b) if isinstance(a, Box) else (b, a)
    return Box(box.low + by, box.high + by)


def _linear(module: Any, box: Box) -> Box:
    """``W m + b +- |W| r``."""
    middle, radius = (box.low + box.high) / 2, (box.high - box.low) / 2
    weight = module.weight.abs()
    if isinstance(module, nn.Linear):
        return Box.about(module(middle), F.linear(radius, weight))
    return Box.about(module(middle), module._conv_forward(radius, weight, None))


def _sorted(module: nn.Module, box: Box) -> Box:
    """A function of each value alone that grows or falls: its corners, in order."""
    one, other = module(box.low), module(box.high)
    return Box(torch.minimum(one, other), torch.maximum(one, other))


@register("interval_bounds", paper="Gowal et al. 2018, arXiv 1810.12715")
class IntervalBounds(Differentiating):
    """How much another class can gain on the predicted one within ``|x' - x| <= eps``, by bounds.

    ``max_{k != y} sup (f_k - f_y)``, the last layer taken on differences. Below 0 the prediction is
    certified: nothing in the box changes it. With ``eps=0`` it is minus the margin. Interval bounds
    of networks that were not trained for them are loose beyond a few layers.

    Args:
        eps: half of the box's side, in units of the inputs that the network gets.
    """

    def __init__(self, eps: float = 1e-4) -> None:
        super().__init__()
        self.eps = checks.within("eps", eps, 0)

    def _score(self, outputs: Outputs) -> Tensor:
        reader = self._bound()
        head = reader.head
        if head is None:
            raise ValueError("the model has no last nn.Linear, on whose differences the bound is")
        with surgery.evaluating(reader.model):
            x = outputs.of("inputs")
            before = Before(surgery.inner(reader.model), head)
            box = before(x - self.eps, x + self.eps)
        weight, y = head.weight, outputs.logits.argmax(1)
        apart = weight[None] - weight[y][:, None]  # (N, K, D)
        middle, radius = (box.low + box.high) / 2, (box.high - box.low) / 2
        gain = torch.einsum("nkd,nd->nk", apart, middle)
        gain = gain + torch.einsum("nkd,nd->nk", apart.abs(), radius)
        if head.bias is not None:
            gain = gain + head.bias - head.bias[y][:, None]
        if gain.shape[1] == 1:  # there is no other class
            return gain[:, 0]
        return gain.scatter(1, y[:, None], -torch.inf).amax(1)


class Before(Bounds):
    """Bounds of what enters the last layer."""

    def __init__(self, model: nn.Module, head: nn.Linear) -> None:
        super().__init__(model)
        self._head = next(name for name, module in model.named_modules() if module is head)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Stop at the last layer."""
        return args[0] if target == self._head else super().call_module(target, args, kwargs)
