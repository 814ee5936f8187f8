"""`Context`: what one layer knows about the distribution of each of its neurons, as a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qact import _compat, checks
from qact.kernels import eager, tables
from qact.rank.bandwidth import Bandwidth, parse
from qact.rank.grid import Grid
from qact.rank.histogram import Histogram, empty, merge
from qact.rank.layout import Channels
from qact.rank.levels import parse as parse_level
from qact.rank.moving import moved
from qact.rank.plausible import complaints
from qact.rank.rule import Rule

FLOATS = ("mass", "moment", "mean", "std")
TENSORS = (*FLOATS, "exponent", "offset", "batches")


class Context(nn.Module):
    """A mergeable histogram of the pre-activations of each channel.

    Buffers only, never parameters: ``mass`` and ``moment`` (C, bins), ``mean`` and ``std`` (C,),
    the dyadic grid's ``exponent`` and ``offset`` (C,), and ``batches``, how many it has followed.
    ``add``, ``merge`` and ``decay`` work in place and return the context; ``a + b`` is a new one.
    Statistics stay in float32 (or float64), whatever the model around them is cast to.

    Args:
        num_features: channels ``C``.
        bins: resolution. 512 bins hold a rank to about 1e-4 of a smooth distribution; tails as
            heavy as Cauchy's want 1024.

    Example:
        >>> context = Context(1).add(torch.tensor([[-1.0], [0.0], [1.0], [2.0]]))
        >>> context.rank(torch.tensor([[1.5]]), grounded=False, smooth=False)
        tensor([[0.7500]])
    """

    mass: Tensor
    moment: Tensor
    mean: Tensor
    std: Tensor
    exponent: Tensor
    offset: Tensor
    batches: Tensor

    def __init__(
        self,
        num_features: int,
        bins: int = 512,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.num_features = checks.integer("num_features", num_features, 1)
        self.bins = checks.integer("bins", bins, 8)
        blank = empty(num_features, bins, dtype=dtype, device=device)
        for name in FLOATS:
            self.register_buffer(name, getattr(blank, name))
        self.register_buffer("exponent", blank.grid.exponent)
        self.register_buffer("offset", blank.grid.offset)
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64, device=device))

    @property
    def histogram(self) -> Histogram:
        """The context as plain tensors, shared with the buffers."""
        grid = Grid(self.exponent, self.offset, self.bins)
        return Histogram(self.mass, self.moment, grid, self.mean, self.std)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Mass, moment, mean, std, exponent and offset, for kernels that move them in place."""
        return self.mass, self.moment, self.mean, self.std, self.exponent, self.offset

    @property
    def count(self) -> Tensor:
        """Total mass per channel (C,)."""
        return self.histogram.count

    @property
    def is_empty(self) -> bool:
        """Whether some channel has seen no data."""
        return bool((self.count == 0).any())

    @torch.no_grad()
    def add(self, input: Tensor, *, dim: int = 1) -> Context:
        """Count every value of ``input``, channels at ``dim``; all of them must be finite."""
        z = self._asked(input, dim).filled().z
        seen = eager.observe(z, Rule(smooth=False), self.bins)
        if not torch.isfinite(seen.mean).all():
            bad = z[~torch.isfinite(z)][0].item()
            raise ValueError(f"the input holds {bad}, which has no rank; nothing was added")
        return self.take(merge(self.histogram, seen.to(self.mass.dtype), self.bins), 1)

    @torch.no_grad()
    def merge(self, other: Context) -> Context:
        """Add all that ``other`` has counted."""
        if not isinstance(other, Context) or other.num_features != self.num_features:
            got = getattr(other, "num_features", type(other).__name__)
            raise ValueError(f"cannot merge {got} channels into a context of {self.num_features}")
        theirs = other.histogram.to(self.mass.dtype)
        return self.take(merge(self.histogram, theirs, self.bins), int(other.batches))

    def __add__(self, other: Context) -> Context:
        return self.clone().merge(other)

    @torch.no_grad()
    def decay(self, factor: float) -> Context:
        """Multiply every mass by ``factor`` in [0, 1]: forget that much."""
        if not 0 <= factor <= 1:
            raise ValueError(f"factor={factor!r} must lie in [0, 1]")
        self.mass *= factor
        self.moment *= factor
        return self

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Forget everything. A module made on the meta device needs it after ``to_empty``."""
        blank = empty(self.num_features, self.bins, dtype=self.mass.dtype, device=self.mass.device)
        self.batches.zero_()
        self.take(blank, 0)

    def clone(self) -> Context:
        """An independent copy."""
        new = Context(self.num_features, self.bins, device=self.mass.device, dtype=self.mass.dtype)
        new.load_state_dict(self.state_dict())
        return new

    @torch.no_grad()
    def follow(self, seen: Histogram, momentum: float | None) -> None:
        """Move towards a batch: ``(1 - m) stored + m batch``, as BatchNorm's running statistics do.

        Until ``1 / momentum`` batches are in, and always if it is None, the mean over batches. The
        total mass stays that of a typical batch, and with it the bandwidth. A channel whose batch
        is not finite is left as it was.
        """
        seen = seen.to(self.mass.dtype)
        rate = torch.clamp_min(1.0 / (self.batches + 1), momentum or 0.0).to(self.mass.dtype)
        self.take(moved(self.histogram, seen, rate), 1)

    def following(self, momentum: float | None) -> tuple[Context, float | None] | None:
        """What a training pass moves, and how: nothing, if a backward pass runs it once more.

        That is gradient checkpointing, and what it sees has been counted already.

        Raises:
            RuntimeError: under a transform of ``torch.func``.
        """
        if torch.compiler.is_compiling():
            return self, momentum
        if _compat.transforming():
            raise RuntimeError(
                "no running context can follow under torch.func: under vmap every slice is a "
                "context of its own, and grad lets no buffer change; use "
                "qact.functional.quantile_activation, or the layer in eval()"
            )
        return None if _compat.in_backward() else (self, momentum)

    def rank(self, z: Tensor, *, dim: int = 1, **rule: Any) -> Tensor:
        """The rank of ``z`` here; options as in :class:`qact.rank.rule.Rule` (any bandwidth)."""
        plan, level = _rule(**rule), parse_level("uniform")
        return self._read(z, dim, lambda f: eager.apply(f, self.histogram, level, plan))

    def density(self, z: Tensor, *, dim: int = 1, **rule: Any) -> Tensor:
        """``f_h(z)``, the derivative of the smooth rank, in units of one over those of ``z``."""
        plan = _rule(**rule)
        return self._read(z, dim, lambda f: eager.density(f, self.histogram, plan))

    def quantile(self, q: float | Tensor, *, grounded: bool | str = False) -> Tensor:
        """The values below which a share ``q`` (a number, or (Q,)) of the weight lies: (C, Q)."""
        q = torch.as_tensor(q, dtype=self.mass.dtype, device=self.mass.device).reshape(-1)
        if not ((q >= 0) & (q <= 1)).all():
            raise ValueError(f"q={q.tolist()} must lie in [0, 1]")
        self.require_data()
        return tables.quantile(self.histogram, q, Rule(grounded=grounded, smooth=False))

    def _read(self, z: Tensor, dim: int, function: Callable[[Tensor], Tensor]) -> Tensor:
        channels = self._asked(z, dim)
        self.require_data()
        return z.clone() if channels.empty else channels.back(function(channels.z))

    def _asked(self, input: Tensor, dim: int) -> Channels:
        return Channels.of(input, dim, self.num_features, "the context")

    def ready(self, channels: Channels) -> None:
        """Raise ValueError for another number of channels, RuntimeError for an empty context."""
        Channels.of(channels.input, channels.dim, self.num_features, "the context")
        if not torch.compiler.is_compiling():  # a compiler cannot ask the data
            self.require_data()

    def require_data(self) -> None:
        """Raise RuntimeError if some channel has seen nothing."""
        if self.is_empty:
            raise RuntimeError(
                "this context has seen no data; train the layer, call add(), or load a state first"
            )

    @torch.no_grad()
    def take(self, new: Histogram, batches: int = 0) -> Context:
        """Overwrite what is stored, in place, and count further ``batches``."""
        for name in FLOATS:
            getattr(self, name).copy_(getattr(new, name))
        self.exponent.copy_(new.grid.exponent)
        self.offset.copy_(new.grid.offset)
        self.batches += batches
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Context:
        """Move with the model, but never below float32: counts do not fit into half precision."""
        kept = {name: getattr(self, name) for name in FLOATS}
        super()._apply(fn, recurse)
        for name, old in kept.items():
            new = getattr(self, name)
            if new.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, old.to(new.device))
        return self

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        """All or nothing: a state that does not fit leaves the context as it was."""
        missing, errors = args[-3], args[-1]
        errors += complaints(state_dict, prefix, {name: getattr(self, name) for name in TENSORS})
        absent = [prefix + name for name in TENSORS if prefix + name not in state_dict]
        if errors or absent:
            missing += absent
            return
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"{self.num_features}, bins={self.bins}"


def _rule(
    grounded: bool | str = True,
    smooth: bool = True,
    bandwidth: float | str | Bandwidth = "scott",
) -> Rule:
    return Rule(grounded=grounded, smooth=smooth, bandwidth=parse(bandwidth))
