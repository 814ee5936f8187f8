"""`Context`: what one layer knows about the distribution of each of its neurons, as a module."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from qact import _compat, checks
from qact._compat import replace
from qact.kernels import eager, engines, tables
from qact.kernels.recall import versions
from qact.kernels.stored import Stored, store
from qact.locks import Lock, exclusive
from qact.rank.bandwidth import Bandwidth, parse
from qact.rank.grid import stored, whole
from qact.rank.histogram import Histogram, empty, merge, narrowest
from qact.rank.layout import Channels
from qact.rank.levels import parse as parse_level
from qact.rank.moving import moved
from qact.rank.quantiles import order_statistics
from qact.rank.rule import Rule
from qact.rank.tails import ALL, KEPT
from qact.rank.validation import AVERAGED, complaints

FLOATS = ("mass", "moment", "mean", "std", "exponent", "offset")
TENSORS = (*FLOATS, "batches")
WIDE = (torch.float32, torch.float64)

UNIFORM = parse_level("uniform")
# One more is counted in float32 up to here, with room for a batch.
LARGEST = 2.0**23


class Context(nn.Module):
    """The empirical distribution of the pre-activations of each channel: a mergeable histogram.

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
    tails: Tensor | None
    _lock = Lock()  # of what was pickled before contexts had one

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
        self._table: tuple[Any, Stored] | None = None
        self._lock = Lock()
        blank = empty(num_features, bins, dtype=dtype, device=device)
        for name in FLOATS:
            self.register_buffer(name, _part(blank, name).to(dtype))
        self.register_buffer("tails", None)  # while values are added: see qact.rank.tails
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64, device=device))

    @classmethod
    def of(cls, histogram: Histogram) -> Context:
        """A context of what has been counted already, in the precision that it was counted in."""
        channels, bins = histogram.mass.shape
        new = cls(channels, bins, device=histogram.mass.device, dtype=histogram.mean.dtype)
        if histogram.mass.dtype == torch.float64:
            new._widen()
        return new.take(histogram, 1)

    @property
    def alone(self) -> AbstractContextManager[None]:
        """Within the block no other thread changes the context, or reads it half changed."""
        # A graph holds no lock.
        return nullcontext() if torch.compiler.is_compiling() else self._lock

    @property
    def histogram(self) -> Histogram:
        """The context as plain tensors, shared with the buffers."""
        grid = stored(self.exponent, self.offset, self.bins)
        return Histogram(self.mass, self.moment, grid, self.mean, self.std, self.tails)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Mass, moment, mean, std, exponent and offset, for kernels that move them in place."""
        found = self._buffers  # at once: a module looks a name up in three places
        return tuple(found[name] for name in FLOATS)  # type: ignore[misc]

    @property
    def single(self) -> bool:
        """Whether all that is stored is float32, counted in int64, as fused kernels move it."""
        counted = self.batches.dtype == torch.int64
        return counted and all(tensor.dtype == torch.float32 for tensor in self.tensors)

    @property
    def count(self) -> Tensor:
        """Total mass per channel (C,), whole up to 2^53 if it is one of values."""
        return self.mass.sum(1, dtype=torch.float64)

    @property
    def is_empty(self) -> bool:
        """Whether some channel has seen no data."""
        self._require_numbers()
        return bool((self.count == 0).any())

    @torch.no_grad()
    @exclusive
    def add(self, input: Tensor, *, dim: int = 1) -> Context:
        """Count every value of ``input``, channels at ``dim``; all of them must be finite."""
        self._require_numbers()
        z = self._narrowed(self._asked(input, dim).filled().z)
        seen = eager.kept(z, self.histogram)
        if not torch.isfinite(seen.mean).all():
            bad = z[~torch.isfinite(z)][0].item()
            raise ValueError(f"the input holds {bad}, which has no rank; nothing was added")
        return self.join(seen, 1)

    def _narrowed(self, z: Tensor) -> Tensor:
        """Values in the context's precision, on the side of zero that they are on."""
        if (z.dtype, self.mean.dtype) != (torch.float64, torch.float32):
            return self._wide(z)
        narrow = z.float()
        return torch.where((z < 0) & (narrow == 0), -torch.finfo(torch.float32).tiny, narrow)

    def _wide(self, z: Tensor) -> Tensor:
        """Values no narrower than the context, whose bins may be finer than float32 can tell."""
        return z.double() if self.mean.dtype == torch.float64 else z

    @torch.no_grad()
    def merge(self, other: Context) -> Context:
        """Add all that ``other`` has counted."""
        if not isinstance(other, Context) or other.num_features != self.num_features:
            got = getattr(other, "num_features", type(other).__name__)
            raise ValueError(f"cannot merge {got} channels into a context of {self.num_features}")
        other._require_numbers()
        first, second = sorted((self, other), key=id)  # in one order, whoever merges whom
        with first.alone, second.alone:
            return self.join(other.histogram, int(other.batches))

    @torch.no_grad()
    @exclusive
    def join(self, other: Histogram, batches: int = 1) -> Context:
        """Add what a histogram has counted, of so many batches: :meth:`merge` for plain tensors."""
        self._require_numbers()
        own = self.histogram
        if own.tails is None or other.tails is None:  # else the sum is in float64 by itself
            own, other = _wide(own), _wide(other)
        new = merge(own, other, self.bins, settle=engines.settling(self.mass))
        # Asked here alone: an average of batches never counts so far, and training must not wait.
        if self.mass.dtype == torch.float32 and bool((new.mass >= LARGEST).any()):
            self._widen()
        return self.take(new, batches)

    def __add__(self, other: Context) -> Context:
        return self.clone().merge(other)

    @torch.no_grad()
    @exclusive
    def decay(self, factor: float) -> Context:
        """Multiply every mass by ``factor`` in [0, 1]: forget that much."""
        if not 0 <= factor <= 1:
            raise ValueError(f"factor={factor!r} must lie in [0, 1]")
        if factor != 1:  # shares of values have no tails
            self.mass *= factor
            self.moment *= factor
            self.tails = None
        return self

    @torch.no_grad()
    @exclusive
    def reset_parameters(self) -> None:
        """Forget everything. A module made on the meta device needs it after ``to_empty``."""
        blank = empty(self.num_features, self.bins, dtype=self.mean.dtype, device=self.mass.device)
        self.batches.zero_()
        self.take(blank, 0)

    def reset_running_stats(self) -> None:
        """Forget everything: :meth:`reset_parameters`, by the name that BatchNorm has for it."""
        self.reset_parameters()

    @torch.no_grad()
    @exclusive
    def compact(self) -> Context:
        """Drop the tails, which further exact adding and extreme quantiles need."""
        self.tails = None
        return self

    @exclusive
    def clone(self) -> Context:
        """An independent copy, of a subclass too."""
        return copy.deepcopy(self)

    @torch.no_grad()
    @exclusive
    def follow(self, seen: Histogram, momentum: float | None) -> None:
        """Move towards a batch: ``(1 - m) stored + m batch``, an exponential moving average.

        BatchNorm's running statistics do the same. Until ``1 / momentum`` batches are in, and
        always if it is None, the mean over batches. The total mass stays that of a typical batch,
        and with it the bandwidth. A channel whose batch is not finite is left as it was.
        """
        seen = seen.to(self.mass.dtype)
        rate = torch.clamp_min(1.0 / (self.batches + 1).float(), momentum or 0.0).to(
            self.mass.dtype
        )
        self.take(moved(self.histogram, seen, rate), 1)

    def following(self, momentum: float | None) -> tuple[Context, float | None] | None:
        """What a training pass moves, and how: nothing, if a backward pass runs it once more.

        That is gradient checkpointing, and what it sees has been counted already.

        Raises:
            RuntimeError: under a transform of ``torch.func``.
        """
        if self._buffers["tails"] is not None:
            self.tails = None
        if torch.compiler.is_compiling():
            return self, momentum
        refuse_transform()
        return None if _compat.in_backward() else (self, momentum)

    def rank(self, z: Tensor, *, dim: int = 1, **rule: Any) -> Tensor:
        """Return the rank of ``z`` here: the empirical CDF, or, smooth, its kernel estimate.

        Options as in :class:`qact.rank.rule.Rule` (any bandwidth).

        Raises:
            ValueError: a channel's values differ by less than its bins tell apart.
        """
        self._require_width()
        plan = _rule(**rule)
        return self._read(z, dim, lambda f: self._ranked(f, plan))

    def cdf(self, z: Tensor, *, dim: int = 1) -> Tensor:
        """Return the share of all values up to ``z``: the step rank without grounding.

        To half of a bin's mass, also where all values of a channel share one.
        """
        plan = _rule(grounded=False, smooth=False)
        return self._read(z, dim, lambda f: self._ranked(f, plan))

    @exclusive
    def _ranked(self, z: Tensor, rule: Rule) -> Tensor:
        """By the table that is kept until something changes; a gradient goes its own way."""
        z = self._wide(z)
        differentiated = torch.is_grad_enabled() and z.requires_grad
        if z.dtype == torch.float64 or differentiated or torch.compiler.is_compiling():
            return eager.apply(z, self.histogram, UNIFORM, rule)
        key = versions([*self.buffers()]), rule
        if self._table is None or key[0] is None or self._table[0] != key:
            self._table = key, store(self.histogram, UNIFORM, rule, exact=True)
        wide = z.float().contiguous()
        return engines.lookup(None, wide, self._table[1])

    def density(self, z: Tensor, *, dim: int = 1, **rule: Any) -> Tensor:
        """Return the kernel density ``f_h(z)``, the slope of the smooth rank, per unit of ``z``.

        Raises:
            ValueError: a channel's values differ by less than its bins tell apart.
        """
        self._require_width()
        plan = _rule(**rule)
        return self._read(z, dim, lambda f: eager.density(self._wide(f), self.histogram, plan))

    @exclusive
    def quantile(self, q: float | Tensor, *, grounded: bool | str = False) -> Tensor:
        """Return the values (C, Q) below which a share ``q`` (a number, or (Q,)) of weight lies.

        Read off the grid to a bin; without grounding the extremes, and what is alone in its bin,
        are single values, where the context still knows them (``tails``, while values are added).
        """
        self._require_numbers()
        q = torch.as_tensor(q, dtype=self.mass.dtype, device=self.mass.device).reshape(-1)
        if not ((q >= 0) & (q <= 1)).all():
            raise ValueError(f"q={q.tolist()} must lie in [0, 1]")
        self.require_data()
        rule = Rule(grounded=grounded, smooth=False)
        if self.tails is not None and not rule.grounded:
            found = order_statistics(self.histogram, q.expand(self.num_features, -1))
        else:
            found = tables.quantile(self.histogram, q, rule)
        return found.to(self.mean.dtype)

    @exclusive
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

    def _require_numbers(self) -> None:
        """Raise RuntimeError on the meta device."""
        if self.mass.is_meta:
            raise RuntimeError(
                "this context is on the meta device, which holds shapes and no numbers; call "
                "load_state_dict(state, assign=True), or to_empty(device=...) and reset_parameters"
            )

    def require_data(self) -> None:
        """Raise RuntimeError if some channel has seen nothing, or what is stored is no context."""
        self._require_numbers()
        if _compat.batched(self.mass):
            raise RuntimeError(
                "contexts of several networks are stacked under torch.vmap, and a context is read "
                "off its numbers, which vmap hides: call these networks one by one, or stack "
                "their parameters alone"
            )
        if not (whole(self.exponent) & whole(self.offset)).all():
            raise RuntimeError(f"the context's grid is none{AVERAGED}")
        if self.is_empty:
            raise RuntimeError(
                "this context has seen no data; train the layer, call add(), or load a state first"
            )

    def _require_width(self) -> None:
        """Raise ValueError where values differ, and the finest bins that there are hold them all.

        A layer counts such a channel as constant; who asks a context for ranks is told.
        """
        self._require_numbers()
        least = narrowest(self.std.dtype)
        narrow = ((self.std > 0) & (self.std <= least)).nonzero()
        if len(narrow):
            channel = int(narrow[0])
            other = "" if least < 1e-200 else ", or use Context(..., dtype=torch.float64)"
            raise ValueError(
                f"the values of channel {channel} spread by {float(self.std[channel]):.3g}; bins "
                f"of {self.std.dtype} tell apart what spreads by more than {least:.3g}: multiply "
                f"the values by a power of two{other}"
            )

    @torch.no_grad()
    @exclusive
    def take(self, new: Histogram, batches: int = 0) -> Context:
        """Overwrite what is stored, in place, and count further ``batches``."""
        for name in FLOATS:
            getattr(self, name).copy_(_part(new, name))
        self.tails = None if new.tails is None else new.tails.to(self.mean)
        self.batches += batches
        return self

    def _widen(self) -> None:
        """Count in float64 from now on: float32 ends at 2^24, where one more is none."""
        self.mass, self.moment = self.mass.double(), self.moment.double()

    @exclusive
    def _apply(self, fn: Any, recurse: bool = True) -> Context:
        """Move with the model, but never below float32: counts do not fit into half precision."""
        names = FLOATS if self.tails is None else (*FLOATS, "tails")
        kept = {name: getattr(self, name) for name in names}
        super()._apply(fn, recurse)
        for name, old in kept.items():
            new = getattr(self, name)
            half = new.dtype in (torch.float16, torch.bfloat16)
            if half or (new.dtype == torch.float32 and old.dtype == torch.float64 and _large(old)):
                setattr(self, name, old.to(new.device))
        return self

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own table."""
        return {**self.__dict__, "_table": None}

    @exclusive
    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        """All or nothing: a state that does not fit leaves the context as it was."""
        local, _, missing, _, errors = args
        own = {name: getattr(self, name) for name in TENSORS}
        tails = state_dict.get(prefix + "tails")
        few = isinstance(tails, Tensor) and tails.shape[-1:] == (2 * KEPT,)
        own["tails"] = self.mean.new_empty(self.num_features, 2 * KEPT if few else ALL)
        errors += complaints(state_dict, prefix, own)
        absent = [prefix + name for name in TENSORS if prefix + name not in state_dict]
        if errors or absent:
            missing += absent
            return
        self.tails = None if tails is None else self.mean.new_empty(tails.shape)
        if state_dict[prefix + "mass"].dtype != state_dict[prefix + "mean"].dtype:
            self._widen()
        super()._load_from_state_dict(state_dict, prefix, *args)
        if local.get("assign_to_params_buffers", False):  # as the state has them, whatever dtype
            self._restore()
        if tails is not None and tails.dtype not in WIDE:  # rounded, they stand in other bins
            self.tails = None

    def _restore(self) -> None:
        """Floats of float32 at least, and batches whole, as a state that is copied leaves them."""
        for name in FLOATS:
            tensor = getattr(self, name)
            if tensor.dtype not in WIDE:
                setattr(self, name, tensor.float())
        self.batches = self.batches.long()

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        return f"{self.num_features}, bins={self.bins}"


def refuse_transform() -> None:
    """Raise RuntimeError in training under a transform of ``torch.func``."""
    if _compat.transforming():
        raise RuntimeError(
            "no running context can follow under torch.func: under vmap every slice is a "
            "context of its own, and grad lets no buffer change; use "
            "qact.functional.quantile_activation, or the layer in eval()"
        )


def _wide(histogram: Histogram) -> Histogram:
    """Counts in float64; the mean says what precision the grid is for."""
    return replace(histogram, mass=histogram.mass.double(), moment=histogram.moment.double())


def _large(numbers: Tensor) -> bool:
    """Whether integers of this size may be lost in float32."""
    return not numbers.is_meta and bool((numbers.abs() >= LARGEST).any())


def _part(histogram: Histogram, name: str) -> Tensor:
    return getattr(histogram.grid if name in ("exponent", "offset") else histogram, name)


def _rule(
    grounded: bool | str = True,
    smooth: bool = True,
    bandwidth: float | str | Bandwidth = "scott",
) -> Rule:
    return Rule(grounded=grounded, smooth=smooth, bandwidth=parse(bandwidth))
