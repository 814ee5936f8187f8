"""Interval bounds of activations: what a box around the input becomes (arXiv 1810.12715).

Exact where an output depends on one value, or on two of which neither is read twice; elsewhere
sound: what the box holds is never outside. Rounding of the dtype is not counted in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qact.activations import gated, polynomial, sparse
from qact.activations.shell import along
from qact.activations.turning import CALLS, POINTS
from qact.functional import transform
from qact.kernels.stored import Stored
from qact.nn.derived import computes
from qact.nn.layer import QAct
from qact.nn.normed import NormedQAct
from qact.rank import levels
from qact.rank.layout import Channels


class Box(NamedTuple):
    """Bounds of every value, ``low <= x <= high``, two tensors of one shape."""

    low: Tensor
    high: Tensor

    @classmethod
    def about(cls, middle: Tensor, radius: Tensor | float) -> Box:
        """The box of a radius."""
        return cls(middle - radius, middle + radius)

    @classmethod
    def around(cls, values: Iterable[Tensor]) -> Box:
        """The least box that holds all of some values, place by place."""
        stacked = torch.stack(torch.broadcast_tensors(*values))
        return cls(stacked.amin(0), stacked.amax(0))

    @property
    def middle(self) -> Tensor:
        """The middle of the box."""
        return (self.low + self.high) / 2

    @property
    def radius(self) -> Tensor:
        """Half of its width."""
        return (self.high - self.low) / 2

    @property
    def inverse(self) -> Box:
        """One over positive values."""
        return Box(1 / self.high, 1 / self.low)

    def each(self, function: Callable[[Tensor], Tensor]) -> Box:
        """Under a function that grows with every value, or only moves values about."""
        return Box(function(self.low), function(self.high))

    def times(self, other: Box | Tensor | float) -> Box:
        """The product with what varies for itself."""
        ends = other if isinstance(other, Box) else (other,)
        return Box.around([mine * its for mine in self for its in ends])


Rule = Callable[[Any, Box], Box]
RULES: dict[type[nn.Module], Rule] = {}


def rule(*classes: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Enter ``(module, box) -> box`` for classes of modules that are not pointwise."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(classes, function))
        return function

    return enter


def interval(module: nn.Module, box: Box) -> Box:
    """Bounds of what ``module`` makes of values in a box.

    An activation that grows or falls maps corners to corners; others turn at known points
    (:mod:`qact.activations.turning`). A :class:`qact.QAct` with a stored context is a rank, which
    grows, and its level. Each entry of the registry has a rule; layers have theirs in
    :mod:`qact.activations.layer_bounds`.

    Raises:
        NotImplementedError: nothing is known of the module, or it reads its batch.

    Example:
        >>> interval(nn.SiLU(), Box(torch.tensor([-3.0]), torch.tensor([0.0])))
        Box(low=tensor([-0.2785]), high=tensor([0.]))
    """
    for cls in type(module).__mro__:
        if cls in RULES or cls in POINTS:
            if not computes(module, cls):
                break  # a subclass that does something else
            if cls in RULES:
                return RULES[cls](module, box)
            return enclosed(module, box, POINTS[cls](module, box.low))
    raise NotImplementedError(
        f"no interval bounds of {type(module).__name__}; enter where it turns with "
        "qact.activations.turning.turning, or a rule with qact.activations.intervals.rule"
    )


def enclosed(
    function: Callable[[Tensor], Tensor], box: Box, points: Iterable[Tensor | float] = ()
) -> Box:
    """Bounds of a pointwise function that between neighbours of ``points`` grows or falls."""
    inputs = [*box]
    for point in points:
        at = torch.as_tensor(point, dtype=box.low.dtype, device=box.low.device)
        # Whose box does not hold the point is asked of its own corner once more.
        inputs.append(torch.where((box.low < at) & (at < box.high), at, box.low))
    if box.low.dim() < 2:
        return Box.around(function(value.clone()) for value in inputs)
    # In one call: a QAct that is differentiated makes the table of its context anew each time.
    return Box.around(function(torch.cat(inputs)).chunk(len(inputs)))


def spread(box: Box, dims: tuple[int, ...]) -> tuple[Box, Box]:
    """Bounds of mean and (population) standard deviation over ``dims``, kept as size 1.

    The deviation is a seminorm: that of ``m + d`` is that of ``m`` up to the root mean square of d.
    """
    mean = box.each(lambda z: z.mean(dims, keepdim=True))
    middle, slack = box.middle, box.radius.square().mean(dims, keepdim=True).sqrt()
    std = (middle - middle.mean(dims, keepdim=True)).square().mean(dims, keepdim=True).sqrt()
    return mean, Box((std - slack).clamp_min(0), std + slack)


@rule(gated.GLU, gated.ReGLU, gated.GEGLU, gated.SwiGLU, gated.SimpleGate, gated.DReLU)
def _gated(module: Any, box: Box) -> Box:
    a, b = (Box(*ends) for ends in zip(*(z.chunk(2, module.dim) for z in box), strict=True))
    if isinstance(module, gated.DReLU):
        return a.each(torch.relu).times(b.each(torch.relu))
    gates = {"linear": nn.Identity, "sigmoid": nn.Sigmoid, "relu": nn.ReLU}
    gate = (gates | {"gelu": nn.GELU, "silu": nn.SiLU})[module.gate]()
    return a.times(interval(gate, b))


@rule(nn.GLU)
def _glu(module: Any, box: Box) -> Box:
    return _gated(gated.GLU(module.dim), box)


@rule(gated.Maxout)
def _maxout(module: Any, box: Box) -> Box:
    return box.each(module)


@rule(sparse.TopK)
def _topk(module: Any, box: Box) -> Box:
    """A value may be kept if fewer than k lows exceed its high; it must, if no other high does."""
    low, high = box.each(torch.relu)
    width = low.shape[module.dim]
    count = module.k if isinstance(module.k, int) else -int(-width * module.k // 1)
    least = low.topk(count, module.dim).values.select(module.dim, -1).unsqueeze(module.dim)
    high = torch.where(high >= least, high, 0.0)
    if count < width:
        others = box.high.relu().topk(count + 1, module.dim).values.select(module.dim, -1)
        low = torch.where(low > others.unsqueeze(module.dim), low, 0.0)
    return Box(low, high)


@rule(sparse.ASH, sparse.HardASH)
def _ash(module: Any, box: Box) -> Box:
    """Mean and deviation of the layer in boxes of their own: sound, and not exact."""
    mean, std = spread(box, tuple(range(1, box.low.dim())) or (0,))
    scaled = std.times(module.z_k)
    low = box.low - mean.high - scaled.high
    excess = Box(low, box.high - mean.low - scaled.low).times(module.alpha)
    if isinstance(module, sparse.HardASH):
        return box.each(lambda z: z.clamp(0.0, 2.0)).times(excess.each(nn.functional.hardsigmoid))
    return box.times(excess.each(torch.sigmoid))


@rule(polynomial.PolyNorm)
def _polynorm(module: Any, box: Box) -> Box:
    """Power over root mean square, each in its box, and never beyond ``sqrt(n)``."""
    least = torch.where((box.low < 0) & (box.high > 0), 0.0, torch.minimum(*box.each(torch.abs)))
    most = torch.maximum(*box.each(torch.abs))
    width, total = box.low.shape[module.dim], Box.about(module.a[0].expand_as(box.low), 0.0)
    for i, coefficient in enumerate(module.a[1:], 1):
        power = enclosed(lambda z, i=i: z**i, box, [0.0])  # type: ignore[misc]

        def size(z: Tensor, i: int = i) -> Tensor:
            largest = z.amax(module.dim, keepdim=True) ** (2 * i)
            mean = (z ** (2 * i)).mean(module.dim, keepdim=True) + module.eps * largest
            return mean.sqrt().clamp_min(torch.finfo(z.dtype).tiny)

        ratio = power.times(Box(1 / size(most), 1 / size(least)))
        term = ratio.each(lambda z: z.clamp(-(width**0.5), width**0.5)).times(coefficient)
        total = Box(total.low + term.low, total.high + term.high)
    return total


@rule(QAct)
def _qact(module: Any, box: Box) -> Box:
    if module.training or module.mode != "running":
        raise NotImplementedError(
            "a QAct that reads its batch has no interval bounds; store a context "
            "(qact.record, or training), and use eval() with context='running'"
        )
    module.context.require_data()
    corners = enclosed(module, box)
    level = module.level
    if module.table is not None:
        ranks = _leveled(module, box, levels.parse("uniform"))
        knots = module.table.unbind(1)
        values = []
        for k, column in enumerate(knots):
            at, value = k / (len(knots) - 1), along(column, box.low, module.dim).to(box.low.dtype)
            values.append(torch.where((ranks.low < at) & (at < ranks.high), value, corners.low))
        return _turning(module, box, corners, Box.around([*corners, *values]))
    if level.activation is None and level.grows:
        return corners
    if level.activation not in CALLS or not level.grows:
        raise NotImplementedError(f"no interval bounds of the level {level.name!r}")
    activation = CALLS[level.activation]
    if activation in (nn.ReLU, nn.Sigmoid, nn.Tanh, nn.SELU):
        return corners
    # A table holds this level at its knots: all of them are values at a score within these bounds.
    scores = _leveled(module, box, level.linear())
    return _turning(module, box, corners, interval(activation(), scores))


def _turning(module: QAct, box: Box, corners: Box, inside: Box) -> Box:
    """Corners, and what a level that turns has between them.

    That is known of the context's own map, from which what the layer reads is some way off.
    """
    stored = module.stored()
    assert isinstance(stored, Stored)  # no graph is exported here
    moved = along(stored.moved, box.low, module.dim).to(box.low.dtype)
    moved = torch.where(box.low < box.high, moved, 0)
    return Box.around([*corners, inside.low - moved, inside.high + moved])


def _leveled(module: QAct, box: Box, level: levels.Level) -> Box:
    """Corners of the rank of a stored context under a level that grows or falls."""

    def at(z: Tensor) -> Tensor:
        channels = Channels.of(z, module.dim, module.num_features)
        return transform(channels, module.rule, level, module.context, None, module.engine, None)

    return enclosed(at, box)


@rule(NormedQAct)
def _normed(module: Any, box: Box) -> Box:
    middle = interval(module.quantile, enclosed(module.norm_in, box))
    if module.norm_out is None:
        return middle
    # Without a gradient all three are read off one table, in which a ReLU under a negative scale
    # bends at an edge beside its kink: by that much the two readings differ.
    with torch.no_grad():
        together = enclosed(module, box)
    return Box.around([*enclosed(module.norm_out, middle), *together])
