"""Certificates: interval bounds of whole networks, and what they prove of predictions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qact import checks, surgery
from qact._compat import AnyConv, AnyConvTranspose
from qact.activations import layer_bounds  # noqa: F401, its rules enter
from qact.activations.intervals import Box, enclosed, interval
from qact.activations.turning import CALLS
from qact.nn.layer import QAct
from qact.nn.normed import ChannelNorm, NormedQAct

GROWING_CALLS = {
    *(torch.flatten, torch.mean, torch.sum, torch.squeeze, torch.unsqueeze, torch.permute),
    *(torch.transpose, torch.reshape, torch.amax, F.avg_pool2d, F.max_pool2d, F.pad),
    *(F.adaptive_avg_pool2d, F.adaptive_max_pool2d, operator.getitem),
    *("flatten", "view", "reshape", "mean", "sum", "contiguous", "squeeze", "unsqueeze"),
    *("permute", "transpose", "amax", "clone", "float", "double"),
}
LINEAR_CALLS = {F.linear, F.conv1d, F.conv2d, F.conv3d}
SUMS = {operator.add, torch.add, operator.iadd, "add", "add_"}
DIFFERENCES = {operator.sub, torch.sub, operator.isub, "sub", "sub_"}
PRODUCTS = {operator.mul, torch.mul, operator.imul, "mul", "mul_"}
IN_PLACE = {operator.iadd, operator.isub, operator.imul, "add_", "sub_", "mul_"}
CHUNK = 256
Known = Callable[[Box, Tensor], Box]


def _linear_call(
    function: Any, box: Box, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Box:
    middle = function(box.middle, weight, bias, *args, **kwargs)
    return Box.about(middle, function(box.radius, weight.abs(), None, *args, **kwargs))


class Tracer(fx.Tracer):
    """Goes into the model's own modules, and takes layers of torch and of qact as one step."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """What bounds are known of."""
        ours = isinstance(module, QAct | NormedQAct) or surgery.is_activation(module)
        return ours or isinstance(module, ChannelNorm) or super().is_leaf_module(module, name)


def traced(model: nn.Module) -> fx.Graph:
    """The graph of a model in ``eval()``.

    Raises:
        NotImplementedError: its path depends on values, or it reads what it has overwritten.
    """
    try:
        with surgery.evaluating(model):
            graph = Tracer().trace(model)
    except fx.proxy.TraceError as error:
        raise NotImplementedError(
            f"{type(model).__name__} cannot be traced for bounds: {checks.reason(error)}"
        ) from error
    order = {node: place for place, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if _in_place(model, node):
            source = node.args[0]
            if any(order[user] > order[node] for user in source.users):
                raise NotImplementedError(
                    f"{node.target!r} works in place on what is read afterwards: give a copy"
                )
    return graph


def _in_place(model: nn.Module, node: fx.Node) -> bool:
    """Whether a step overwrites what it is given."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        # Activations of this package take the option for the sake of exchange, and do not use it.
        return type(module).__module__.startswith("torch.") and getattr(module, "inplace", False)
    given = node.op == "call_function" and node.kwargs.get("inplace", False)
    return bool(given) or node.target in IN_PLACE


class Bounds(fx.Interpreter):
    """Run a traced model on boxes: ``Bounds(model)(low, high)`` returns the bounds of its output.

    Linear layers and convolutions by ``W m +- |W| r`` of the box's middle ``m`` and radius ``r``
    (Gowal et al. 2018, arXiv 1810.12715); BatchNorm in ``eval()``, LayerNorm and GroupNorm; every
    activation of the registry and of torch (:func:`qact.activations.intervals.interval`), QAct with
    a stored context among them; pooling, padding, reshaping; sums, differences and products of
    boxes, concatenation. The model runs as in ``eval()``, and gradients flow through the bounds, so
    that they can be trained. After a call ``seen`` holds the box of each module by its name.

    Args:
        model: the network.
        given: by names of modules, what is known of their outputs: functions of a box and the
            classes that are asked about, to a smaller box. Bounds then hold for the inputs of which
            that is true; :meth:`qact.taps.Patterns.within` is such a function.

    Raises:
        NotImplementedError: the model has an operation that is none of these.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 1, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[2.0, -1.0]]))
        >>> box = Bounds(net)(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 3.0]]))
        >>> box.low.item(), box.high.item()
        (-3.0, 2.0)
    """

    def __init__(self, model: nn.Module, given: Mapping[str, Known] | None = None) -> None:
        self._inner = surgery.inner(model)
        graph = traced(self._inner)
        super().__init__(fx.GraphModule(self._inner, graph))
        self.extra_traceback = False  # what cannot be bounded is said in one line
        self.seen: dict[str, Box] = {}
        self._stop: str | None = None
        self._given, self._asked = dict(given or {}), torch.empty(0, dtype=torch.int64)
        for name in self._given:
            if not any(node.op == "call_module" and node.target == name for node in graph.nodes):
                raise ValueError(f"given={name!r} is no module that the model calls as a step")

    def __call__(self, low: Tensor, high: Tensor) -> Box:
        """Bounds of the output for inputs in a box.

        Raises:
            ValueError: the corners have two shapes, or not ``low <= high``.
        """
        checks.tensors(low=low, high=high)
        if low.shape != high.shape or bool((low > high).any()):
            raise ValueError("low and high must have one shape, with low <= high")
        self.seen = {}
        with surgery.evaluating(self._inner):
            return self.run(Box(low, high))

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One layer."""
        if target == self._stop:
            return args[0]
        try:
            box = interval(self.fetch_attr(str(target)), *args, **kwargs)
        except NotImplementedError as error:
            raise NotImplementedError(f"at {target!r}: {error}") from None
        if target in self._given:
            box = self._given[str(target)](box, self._asked)
        self.seen[str(target)] = box
        return box

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A function, an activation, or arithmetic."""
        if target is torch.cat:
            boxes = [a if isinstance(a, Box) else Box(a, a) for a in args[0]]
            return Box(*(torch.cat(ends, *args[1:], **kwargs) for ends in zip(*boxes, strict=True)))
        if not any(isinstance(a, Box) for a in args):
            return target(*args, **kwargs)
        if target in SUMS | DIFFERENCES | PRODUCTS:
            return _arithmetic(target, *args)
        if target in LINEAR_CALLS:
            return _linear_call(target, *args, **kwargs)
        if target is F.batch_norm and not kwargs.get("training"):
            return enclosed(_named(target, *args[1:], **kwargs), args[0])
        if target in CALLS:
            return interval(CALLS[target](*args[1:], **kwargs), args[0])
        if target in GROWING_CALLS:
            return args[0].each(_named(target, *args[1:], **kwargs))
        if target is F.dropout and kwargs.get("training", True) is False:
            return args[0]
        if target is getattr:
            return getattr(args[0].low, args[1])
        raise NotImplementedError(f"no interval bounds of {getattr(target, '__name__', target)}")

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A method of a tensor: its size, or what stands among the functions."""
        if not isinstance(args[0], Box):
            return super().call_method(target, args, kwargs)
        if target in ("size", "dim"):
            return getattr(args[0].low, str(target))(*args[1:], **kwargs)
        return self.call_function(target, args, kwargs)

    def gains(self, low: Tensor, high: Tensor, y: Tensor) -> Tensor:
        """What another class can gain on ``y`` at most, ``max_(k != y) sup (f_k - f_y)``, (N,).

        A last ``nn.Linear`` is taken on the differences, which is tighter than bounds of its
        outputs. With a single class there is no other, and it is ``-inf``.
        """
        head, self._asked = self._head(), y
        self._stop = None if head is None else head[0]
        try:
            box = self(low, high)
        finally:
            self._stop = None
        if box.low.dim() != 2:
            raise ValueError(f"the last layer has the shape {tuple(box.low.shape)}, not (N, K)")
        if head is None:
            gain = box.high - box.low.gather(1, y[:, None])
        else:
            gain = _differences(head[1], box, y)
        return gain.scatter(1, y[:, None], -torch.inf).amax(1)

    def _head(self) -> tuple[str, nn.Linear] | None:
        """The last layer, if it is linear."""
        graph: Any = self.module.graph
        last = next(node for node in graph.nodes if node.op == "output").args[0]
        if not isinstance(last, fx.Node) or last.op != "call_module":
            return None
        module = self.fetch_attr(str(last.target))
        return (str(last.target), module) if type(module) is nn.Linear else None


def _differences(head: nn.Linear, box: Box, y: Tensor) -> Tensor:
    """``sup (f_k - f_y)`` for all k, (N, K), of a linear layer on a box (N, D)."""
    apart = head.weight[None] - head.weight[y][:, None]  # (N, K, D)
    gain = torch.einsum("nkd,nd->nk", apart, box.middle)
    gain = gain + torch.einsum("nkd,nd->nk", apart.abs(), box.radius)
    return gain if head.bias is None else gain + head.bias - head.bias[y][:, None]


def _named(target: Any, *args: Any, **kwargs: Any) -> Callable[[Tensor], Tensor]:
    """A function of the first argument, or a method by its name."""
    if isinstance(target, str):
        return lambda z: getattr(z, target)(*args, **kwargs)
    return lambda z: target(z, *args, **kwargs)


def _arithmetic(target: Any, a: Any, b: Any) -> Box:
    if target in PRODUCTS:
        return a.times(b) if isinstance(a, Box) else b.times(a)
    if target in DIFFERENCES:
        b = b.times(-1.0) if isinstance(b, Box) else -b
    low, high = (a, a) if not isinstance(a, Box) else a
    less, more = (b, b) if not isinstance(b, Box) else b
    return Box(low + less, high + more)


@dataclass(frozen=True)
class Certificate:
    """What bounds prove of predictions.

    Args:
        eps: the radius.
        gain: what another class can gain on the label at most, (N,): below 0 nothing within the
            radius changes the prediction from it.
        right: whether the prediction is the label, (N,).
    """

    eps: float
    gain: Tensor
    right: Tensor

    @property
    def accuracy(self) -> float:
        """Of the predictions themselves, in [0, 1]."""
        return float(self.right.double().mean())

    @property
    def certified(self) -> float:
        """Certified accuracy: the share that is right, and proved to stay so within the radius."""
        return float((self.gain < 0).double().mean())

    def __repr__(self) -> str:
        share = f"accuracy={self.accuracy:.4f}, certified={self.certified:.4f}"
        return f"Certificate({len(self.gain)} inputs, eps={self.eps:g}, {share})"


@torch.no_grad()
def certify(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    eps: float,
    *,
    within: tuple[float, float] | None = None,
    given: Mapping[str, Known] | None = None,
) -> Certificate:
    """Prove by interval bounds which predictions no change of at most ``eps`` per value can alter.

    Bounds of networks that were not trained for them are loose beyond a few layers: what is not
    certified need not be wrong. Certified training minimises the cross-entropy of
    :meth:`Bounds.gains` (see the page on certificates).

    Args:
        model: a classifier that :class:`Bounds` can run, taken in ``eval()``.
        inputs: (N, ...), as the network gets them.
        labels: (N,) integers.
        eps: half of the side of the box around each input, in units of the inputs.
        within: the range that inputs have, (0.0, 1.0) say: boxes end there.
        given: what is known inside, as in :class:`Bounds`: the certificate then holds for the
            inputs within the radius of which that is true.

    Raises:
        NotImplementedError: no bounds are known of an operation.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False))
        >>> _ = net[0].weight.data.copy_(torch.eye(2))
        >>> x, y = torch.tensor([[1.0, 0.0], [0.3, 0.0]]), torch.tensor([0, 0])
        >>> certify(net, x, y, 0.25)
        Certificate(2 inputs, eps=0.25, accuracy=1.0000, certified=0.5000)
    """
    eps, bounds = checks.within("eps", eps, 0), Bounds(model, given)
    gains, right = [], []
    for x, y in zip(inputs.split(CHUNK), labels.split(CHUNK), strict=True):
        box = Box.about(x, eps)
        if within is not None:
            box = box.each(lambda z: z.clamp(*within))
        gains.append(bounds.gains(*box, y))
        with surgery.evaluating(model):
            right.append(model(x).argmax(1) == y)
    return Certificate(eps, torch.cat(gains), torch.cat(right))


def behind_sums(model: nn.Module) -> set[str]:
    """Names of linear layers and convolutions that read a sum, whatever without weights is between.

    Example:
        >>> from qact.models import resnet_small
        >>> sorted(behind_sums(resnet_small(width_multiplier=0.5)))[:2]
        ['head', 'stages.1.0.conv1']
    """
    modules, found, sums = dict(model.named_modules()), set(), set()
    for node in traced(model).nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        weighted = isinstance(module, nn.Linear | AnyConv | AnyConvTranspose)
        reads = [arg for arg in node.all_input_nodes if arg in sums]
        if weighted and reads:
            found.add(str(node.target))
        added = node.target in SUMS and len(node.all_input_nodes) > 1
        if added or (reads and not weighted):
            sums.add(node)
    return found
