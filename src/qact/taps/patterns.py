"""What a class looks like inside: its activation pattern and its box, as specifications to check.

Both are mined from values (N, D) at any place and the classes of their samples. A new value is
asked about the class that the network predicts for it; how much it may deviate is a quantile of
what in-distribution samples do, each asked of the specification of the others (leave one out).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qact import checks
from qact.activations.intervals import Box


def counting() -> torch.dtype:
    """The default dtype, float32 at least: half precision counts to 256."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


class Patterns(nn.Module):
    """The neurons that are active, or inactive, for nearly all samples of a class.

    Neural activation patterns as specifications (Geng et al. 2022, arXiv 2210.16114): a neuron
    belongs to the pattern of a class if it is active, or inactive, for a share ``delta`` of its
    samples. Larger ``delta``, fewer neurons; with 1 every sample of the fit fulfils its pattern.

    Args:
        classes: how many.
        features: D.
        delta: in (0.5, 1].
        cut: active is what lies above it: a number, or one for each feature (D,), such as the
            medians ``context.quantile(0.5)[:, 0]`` where a layer is no ReLU.

    Example:
        >>> values = torch.tensor([[1.0, 0.0, 1.0], [2.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
        >>> found = Patterns(2, 3, delta=1.0).mine(values, torch.tensor([0, 0, 1]))
        >>> found.required
        tensor([[ 1, -1,  0],
                [-1,  1,  1]], dtype=torch.int8)
        >>> found.violated(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([0]))
        tensor([0.5000])
    """

    active: Tensor
    count: Tensor
    cut: Tensor

    def __init__(
        self, classes: int, features: int, delta: float = 0.95, cut: float | Tensor = 0.0
    ) -> None:
        super().__init__()
        self.delta = checks.number("delta", delta, "a share in (0.5, 1]", 0.5, 1)
        checks.integer("classes", classes, 1)
        self.register_buffer("active", torch.zeros(classes, features, dtype=counting()))
        self.register_buffer("count", torch.zeros(classes, dtype=counting()))
        self.register_buffer("cut", torch.as_tensor(cut, dtype=counting()))

    @torch.no_grad()
    def mine(self, values: Tensor, classes: Tensor) -> Patterns:
        """Count further values (N, D) of samples of these classes (N,)."""
        _fits(values, classes, *self.active.shape)
        on = (values > self.cut).to(self.active.dtype)
        self.active.index_add_(0, classes, on)
        self.count.index_add_(0, classes, torch.ones_like(on[:, 0]))
        return self

    @property
    def required(self) -> Tensor:
        """(K, D) of int8: 1 where a class asks for an active neuron, -1 inactive, 0 for either."""
        return self._asked(self.active, self.count[:, None])

    def _asked(self, active: Tensor, count: Tensor) -> Tensor:
        share = active / count.clamp_min(1)
        # A share of whole samples: rounding must not lose one.
        on, off = share >= self.delta - 1e-6, share <= 1 - self.delta + 1e-6
        return (on.to(torch.int8) - off.to(torch.int8)) * (count > 0)

    def violated(self, values: Tensor, classes: Tensor, *, apart: bool = False) -> Tensor:
        """The share (N,) of the neurons that a class asks for which values (N, D) do not show.

        Args:
            values: (N, D).
            classes: as predicted, (N,).
            apart: the values were mined with these classes: ask the pattern of the others.
        """
        _fits(values, classes, *self.active.shape)
        on = values > self.cut
        active, count = self.active[classes], self.count[classes][:, None]
        if apart:
            active, count = active - on.to(active.dtype), count - 1
        asked = self._asked(active, count)
        broken = ((asked > 0) & ~on) | ((asked < 0) & on)
        share = broken.sum(1).float() / (asked != 0).sum(1).clamp_min(1)
        return torch.where(count[:, 0] > 0, share, 1.0).to(values.dtype)

    def within(self, box: Box, classes: Tensor) -> Box:
        """What of a box (N, D) of values fulfils the patterns of these classes.

        As ``given=`` of :class:`qact.activations.bounds.Bounds` it certifies all inputs within a
        radius that show the pattern. Of a box that holds none a corner is left.
        """
        asked = self.required[classes]
        low = torch.where(asked > 0, torch.maximum(box.low, self.cut), box.low)
        high = torch.where(asked < 0, torch.minimum(box.high, self.cut), box.high)
        return Box(low, torch.maximum(low, high))


class Boxes(nn.Module):
    """The box that holds all values of a class: what lies outside is novel to it.

    Outside the box (Henzinger, Lukina and Schilling 2019, arXiv 1911.09032), one box per class.

    Args:
        classes: how many.
        features: D.

    Example:
        >>> values = torch.tensor([[0.0, 0.0], [2.0, 4.0], [9.0, 9.0]])
        >>> found = Boxes(2, 2).mine(values, torch.tensor([0, 0, 1]))
        >>> found.outside(torch.tensor([[1.0, 6.0], [1.0, 1.0]]), torch.tensor([0, 0]))
        tensor([0.5000, 0.0000])
    """

    low: Tensor
    high: Tensor

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        shape = (2, checks.integer("classes", classes, 1), checks.integer("features", features, 1))
        # The two outermost values on each side: without a sample that is one, the other holds.
        self.register_buffer("low", torch.full(shape, torch.inf, dtype=counting()))
        self.register_buffer("high", torch.full(shape, -torch.inf, dtype=counting()))

    @torch.no_grad()
    def mine(self, values: Tensor, classes: Tensor) -> Boxes:
        """Widen the boxes by values (N, D) of samples of these classes (N,)."""
        _fits(values, classes, *self.low.shape[1:])
        for k in classes.unique().tolist():
            mine = values[classes == k].to(self.low.dtype)
            low, high = torch.cat([self.low[:, k], mine]), torch.cat([self.high[:, k], mine])
            self.low[:, k] = low.topk(2, 0, largest=False).values
            self.high[:, k] = high.topk(2, 0).values
        return self

    def outside(self, values: Tensor, classes: Tensor, *, apart: bool = False) -> Tensor:
        """How far (N,) values lie outside the box of their class, in its widths; inside it is 0.

        Args:
            values: (N, D).
            classes: as predicted, (N,); of a class without a box it is infinite.
            apart: the values were mined with these classes: ask the box of the others.
        """
        _fits(values, classes, *self.low.shape[1:])
        low, high = self.low[:, classes], self.high[:, classes]
        first, last = low[0], high[0]
        if apart:
            first = torch.where(values <= first, low[1], first)
            last = torch.where(values >= last, high[1], last)
        known = torch.isfinite(first + last).all(1)
        excess = torch.maximum(first - values, values - last).clamp_min(0)
        width = (high[0] - low[0]).clamp_min(0)
        # A neuron that never varied has no width of its own: it is asked in that of the widest.
        width = torch.where(width > 0, width, width.amax(1, keepdim=True))
        share = (excess / torch.where(width > 0, width, 1.0)).amax(1)
        return torch.where(known, share, torch.inf).to(values.dtype)


def _fits(values: Tensor, classes: Tensor, count: int, features: int) -> None:
    checks.tensors(values=values, classes=classes)
    if values.dim() != 2 or values.shape[1] != features or classes.shape != values.shape[:1]:
        raise ValueError(
            f"values {tuple(values.shape)} and classes {tuple(classes.shape)} do not fit (N, "
            f"{features}) and (N,)"
        )
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < count:
        wrong = classes[(classes < 0) | (classes >= count)]
        raise ValueError(f"classes must be 0 to {count - 1}, got {int(wrong[0])}")
