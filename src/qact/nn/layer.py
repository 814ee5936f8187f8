"""`QAct`: the activation as a layer that owns its context."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qact import checks
from qact._compat import replace
from qact.context import Context
from qact.functional import recall, transform
from qact.kernels import engines
from qact.kernels.constant import constant, exporting, refuse_live_context
from qact.kernels.engines import ENGINES
from qact.kernels.fast_export import Nearest, exported, of_tensors
from qact.kernels.pieces import Pieces
from qact.kernels.recall import named, numbers
from qact.kernels.stored import Stored, storable, store
from qact.nn.kept import HEARD, READS, Kept
from qact.nn.traced import node
from qact.rank import levels as _levels
from qact.rank.bandwidth import Bandwidth
from qact.rank.bandwidth import parse as parse_bandwidth
from qact.rank.layout import Channels
from qact.rank.levels import Level, leveled
from qact.rank.rule import Rule
from qact.surgery.lending import lending, lent, loans

MODES = ("running", "batch", "mixed")
KNOTS = 33


class QAct(nn.Module):
    """Quantile Activation: a neuron outputs where its pre-activation stands in its context.

    ``y = level(weight * score(F(z)) + bias)`` with the rank ``F`` of
    :func:`qact.functional.quantile_activation` (arXiv 2405.11573). In training the context is the
    batch, and a running context follows. In ``eval()`` it depends on ``context``:

    - ``"running"``: the stored context. Every sample is mapped alone, whatever its neighbours.
    - ``"batch"``: the batch itself (the paper's protocol).
    - ``"mixed"``: the batch and the stored context, which counts as ``prior`` samples.

    Args:
        num_features: channels ``C`` of the input at ``dim``.
        dim: the channel dimension; 1 for convolutions and features, -1 for tokens.
        levels: what a rank becomes; ``"table"`` learns it, one table of 33 knots per channel.
        grounded: each side of zero owns half of the mass, so zero is the median: ``"sides"`` (by
            the signs), ``"continuous"`` (no jump where a value crosses zero), True for the default
            of the two, or False.
        smooth: the kernel rank; ``False`` for the exact step rank.
        bandwidth: width of the kernel, a number or a rule for the channel's spread.
        gradient: ``"full"`` through the context too, or ``"density"`` with the context held still.
        context: what ``eval()`` reads, see above.
        momentum: of the running context; None is the mean over all batches.
        prior: how many samples the stored context counts for in ``"mixed"``.
        affine: learn ``weight`` and ``bias`` (C,), scale and shift of the score.
        bins: resolution of the stored context.
        sentinels: pseudo-values at each infinity.
        engine: as in :func:`qact.functional.quantile_activation`.
        device: of parameters and context.
        dtype: of the parameters; the context is kept in float32, or float64 if they are.

    Shape: any with ``C`` channels at ``dim``; the output is like the input.

    Example:
        >>> layer = QAct(8)
        >>> layer(torch.randn(4, 8, 5, 5)).shape
        torch.Size([4, 8, 5, 5])
    """

    same_in_eval = True  # see qact.nn.normed
    _beside: Any = ()  # the norm of its block: see qact.nn.normed
    _own_level = False  # whether a subclass has a level of its own, of whatever it may depend on
    paper: ClassVar[Callable[..., Any]]  # the published block around this layer: qact.nn.normed
    weight: nn.Parameter | None
    bias: nn.Parameter | None
    table: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        *,
        dim: int = 1,
        levels: str | Level | Callable[[Tensor], Tensor] = "relu",
        grounded: bool | str = True,
        smooth: bool = True,
        bandwidth: float | str | Bandwidth = "0.2std",
        gradient: str = "full",
        context: str = "running",
        momentum: float | None = 0.1,
        prior: float = 16.0,
        affine: bool = True,
        bins: int = 512,
        sentinels: float = 0.0,
        engine: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.rule = Rule(grounded, smooth, parse_bandwidth(bandwidth), gradient, sentinels)
        self.bandwidth = bandwidth
        self.levels = levels
        self._level = _levels.parse("uniform" if levels == "table" else levels)
        if momentum is not None:
            checks.number("momentum", momentum, "in (0, 1], or None for the mean", 0, 1)
        self.num_features = checks.integer("num_features", num_features, 1)
        self.dim = checks.integer("dim", dim)
        self.momentum = momentum
        self.prior = checks.number("prior", prior, "a positive number of samples", 0)
        self.engine = checks.choice("engine", engine, (None, *ENGINES))
        self.mode = checks.choice("context", context, MODES)
        checks.flag("affine", affine)
        self.affine = affine and levels != "table"
        self._named = named(self._level) and not self._own_level
        self._numbers = numbers(self.rule)
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"dtype={dtype} must be a floating dtype")
        precision = torch.float64 if dtype == torch.float64 else torch.float32
        self.context = Context(num_features, bins, device=device, dtype=precision)
        self._stored: Kept | None = None
        self._make_parameters(torch.empty(0, device=device, dtype=dtype))

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._own_level = cls.level is not QAct.level

    def _make_parameters(self, like: Tensor) -> None:
        shape = (self.num_features,) if self.affine else None
        for name in ("weight", "bias"):
            self.register_parameter(name, nn.Parameter(like.new_empty(shape)) if shape else None)
        knots = like.new_empty(self.num_features, KNOTS) if self.levels == "table" else None
        self.register_parameter("table", None if knots is None else nn.Parameter(knots))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Scale one, shift zero; a table starts as the ReLU of the normal score.

        The context stays: it has a :meth:`qact.Context.reset_parameters` of its own.
        """
        if self.weight is not None and self.bias is not None:
            self.weight.fill_(1.0)
            self.bias.zero_()
        if self.table is not None:
            ranks = torch.linspace(0, 1, KNOTS, device=self.table.device, dtype=torch.float32)
            self.table.copy_(
                torch.special.ndtri(ranks.clamp(0.25 / KNOTS, 1 - 0.25 / KNOTS)).relu()
            )

    @property
    def mode(self) -> str:
        """What ``eval()`` reads: in a block of :meth:`reading` what that says, else ``context``."""
        reads = lent(self, READS)
        return self._mode if reads is None else reads[0]

    @mode.setter
    def mode(self, mode: str) -> None:
        self._mode = mode

    @property
    def prior(self) -> float:
        """For how many samples the stored context counts in ``"mixed"``."""
        reads = lent(self, READS)
        return self._prior if reads is None or reads[1] is None else reads[1]

    @prior.setter
    def prior(self, prior: float) -> None:
        self._prior = prior

    def reading(self, context: str, prior: float | None = None) -> AbstractContextManager[None]:
        """Within the block, ``eval()`` reads ``context`` in this thread; see :func:`qact.adapting`.

        Example:
            >>> layer = QAct(3)
            >>> with layer.reading("batch"):
            ...     layer.mode
            'batch'
            >>> layer.mode
            'running'
        """
        return lending(self, READS, (context, prior))

    def heard(self, told: Callable[[Tensor], Any]) -> AbstractContextManager[None]:
        """Within the block, ``told`` hears all that this thread ranks here, before it is ranked.

        That is what the context is of. A subclass may be given something else, and change it first.

        Example:
            >>> layer, seen = QAct(3), []
            >>> with layer.heard(seen.append):
            ...     _ = layer(torch.ones(2, 3))
            >>> seen[0].shape
            torch.Size([2, 3])
        """
        return lending(self, HEARD, told)

    def _tell(self, input: Tensor) -> None:
        for told in loans(self, HEARD):
            told(input)

    def reset_running_stats(self) -> None:
        """Forget the context, as BatchNorm forgets its running statistics."""
        self.context.reset_running_stats()

    @property
    def level(self) -> Level:
        """The level map with the layer's present parameters."""
        if self.table is not None:
            return _levels.table(self.table)
        return self._level.affine(self.weight, self.bias) if self.affine else self._level

    def forward(self, input: Tensor) -> Tensor:
        """Map ``input`` by its rank; in training, let the running context follow."""
        if not torch.compiler.is_compiling() and self._stored is not None:
            output = self._stored.answer(input)
            if output is not None:
                return output
        traced = node(self, input)
        if traced is not None:
            return traced
        mode = "batch" if self.training else self.mode
        channels = Channels.of(input, self.dim, self.num_features)
        if HEARD in self.__dict__:
            self._tell(input)
        refuse_live_context(self, mode)
        if input.is_meta:  # shape, dtype, and a gradient for every parameter
            return sum((p.sum() for p in self.parameters()), start=input.clone())
        if channels.empty and not self.training:  # nothing to rank, as a BatchNorm has it
            return input.clone()
        known = None
        if mode == "running" and self._frozen():
            if torch.compiler.is_compiling() and not exporting() and self._named:
                return channels.back(self._recalled(channels))
            return recall(channels, self.stored(), self.engine)
        if mode == "running" and self._storable and self.rule.smooth:
            known = self._read(channels)
        context = None if mode == "batch" else self.context
        prior = self.prior if mode == "mixed" else None
        running = self.context.following(self._rate) if self.training else None
        rest = context, prior, self.engine, running, known
        return transform(channels, self.rule, self.level, *rest)

    @torch.no_grad()
    def _read(self, channels: Channels) -> Tensor | Pieces | None:
        """What the stored map says, for a gradient pass: the same numbers as without one.

        In float64 its pieces, for lines between their values: the kernels compute in float32.
        """
        if torch.compiler.is_compiling() and self._named:
            return self._recalled(channels)
        stored = self.stored()
        assert isinstance(stored, Stored)  # no graph is exported here
        if channels.input.dtype == torch.float64:
            return stored.pieces
        return engines.lookup(self.engine, channels.z.float(), stored)

    def _frozen(self) -> bool:
        """Whether this call needs no gradient of the stored context, and a table can answer it."""
        if exporting():
            return True
        return not torch.is_grad_enabled() and self._storable

    @property
    def _storable(self) -> bool:
        """Whether a table can answer; scale and shift of a score do not matter to that."""
        if self._own_level:
            return not self.rule.smooth
        return storable(self.rule, self._level if self.table is None else self.level)

    @property
    def _rate(self) -> float | None:
        """The momentum, or None while a norm of the same block takes the mean over all batches.

        That is what ``torch.optim.swa_utils.update_bn`` asks of a norm.
        """
        return None if any(norm.momentum is None for norm in self._beside) else self.momentum

    def _recalled(self, channels: Channels) -> Tensor:
        """For compilers: one operator, which makes the table once."""
        context = self.context
        tensors = [*context.tensors, context.batches]
        level = self._level.name
        rest = (self.weight, self.bias, self.table, level, self._numbers)
        return torch.ops.qact.recall(channels.z.float(), tensors, *rest)

    def stored(self) -> Stored | Nearest:
        """The stored context made ready for inference; kept until something in it changes."""
        if exporting():
            return of_tensors(constant(self, "_table"), self._after())
        if torch.compiler.is_compiling():
            return store(self.context.histogram, self.level, self.rule)
        return self._kept()

    def _kept(self) -> Stored:
        kept = self._stored
        if kept is None or not kept.holds:
            with self.context.alone:
                kept = self._stored = Kept(self, self._made, self, () if self._storable else None)
        return kept.stored

    def _made(self) -> Stored:
        self.context.require_data()
        level = self.level
        if not self._storable:  # the level comes behind, see _after: here are ranks alone
            level = replace(level, interpolable=False)
        return store(self.context.histogram, level, self.rule)

    def _table(self) -> tuple[Tensor, ...]:
        kept = self._kept()
        return exported(kept) if self._storable else kept.tensors

    def _after(self) -> Callable[[Tensor], Tensor] | None:
        """The level, where the table holds ranks alone."""
        if self._storable:
            return None
        return partial(leveled, level=self.level, count=self.context.count[:, None])

    def _apply(self, fn: Any, recurse: bool = True) -> QAct:
        """Move or cast: that makes no new version, and may put numbers where the old ones were."""
        self._stored = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own table."""
        return {**self.__dict__, "_stored": None}

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        rule = self.rule
        level = "table" if self.table is not None else self._level.name
        return (
            f"{self.num_features}, dim={self.dim}, levels={level!r}, grounded={rule.grounded!r}, "
            f"smooth={rule.smooth}, bandwidth={self.bandwidth!r}, gradient={rule.gradient!r}, "
            f"context={self.mode!r}, momentum={self.momentum}, prior={self.prior}, "
            f"affine={self.affine}"
        )
