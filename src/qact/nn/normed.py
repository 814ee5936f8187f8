"""Norm -> quantile -> norm: `NormedQAct` in one pass, and the published layer as one setting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.context import refuse_transform
from qact.functional import recall
from qact.kernels import engines
from qact.kernels.block import activation
from qact.kernels.constant import constant, exporting, refuse_live_context
from qact.kernels.fast_export import Nearest, exported, of_tensors
from qact.kernels.following import Norm
from qact.kernels.plan import Plan, fuse, planned
from qact.kernels.stored import Stored
from qact.nn.kept import HEARD, Kept
from qact.nn.layer import QAct
from qact.nn.traced import node
from qact.rank import levels as _levels
from qact.rank.layout import Channels, fold, unfold
from qact.surgery.lending import RULE, untouched


class ChannelNorm(nn.BatchNorm1d):
    """BatchNorm over all but one dimension, wherever that stands."""

    # Said by each class for itself: in eval() a subclass may do something else.
    same_in_eval = True
    _beside: Any = ()  # the QAct of its block

    def __init__(
        self,
        num_features: int,
        *,
        dim: int = 1,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, affine=affine, device=device, dtype=dtype)
        self.dim = dim

    def reset_running_stats(self) -> None:
        """Forget the running statistics, and with them the context that stands behind.

        ``torch.optim.swa_utils.update_bn`` knows norms alone; so it reads the whole block anew.
        """
        super().reset_running_stats()
        for quantile in self._beside:
            quantile.reset_running_stats()

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input`` over every dimension but ``dim``."""
        if self.dim == 1 and torch.compiler.is_compiling():
            return super().forward(input)  # no flattened view: see `qact.kernels.library`
        return unfold(super().forward(fold(input, self.dim)), input, self.dim)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""

    def follow(self, mean: Tensor, variance: Tensor, values: int) -> None:
        """Move the running statistics as a training step does (with the unbiased variance)."""
        if self.following is not None:
            self.following.follow(mean, variance, values)

    @property
    def following(self) -> Norm | None:
        """What follows a batch, if anything does."""
        found: Any = self._buffers  # at once: a module looks a name up in three places
        if not self.track_running_stats or found["num_batches_tracked"] is None:
            return None
        running = found["running_mean"], found["running_var"], found["num_batches_tracked"]
        return Norm(*running, self.momentum)


class NormedQAct(nn.Module):
    """BatchNorm, then :class:`qact.QAct`, then (``after``) another BatchNorm: one operation.

    In training, with the batch as context, an engine that can fuses the three: the statistics of
    both norms come from the histogram that the quantile needs anyway, and the gradient passes
    through all of them exactly. In ``eval()`` with a stored context the three are one table. Else
    they run one after the other, with the same result.

    With ``bandwidth`` relative to the spread the first norm changes one thing only: where zero
    lies, and with it the grounding.

    Args:
        num_features: channels ``C`` of the input at ``dim``.
        after: whether a BatchNorm follows the quantile.
        affine: learn scale and shift of the norms and of the score.
        norm_affine: of the norms; None as ``affine``.
        **options: of :class:`qact.QAct`.

    Shape: any with ``C`` channels at ``dim``; the output is like the input.

    Example:
        >>> NormedQAct(8)(torch.randn(4, 8, 5, 5)).shape
        torch.Size([4, 8, 5, 5])
    """

    def __init__(
        self,
        num_features: int,
        *,
        dim: int = 1,
        after: bool = False,
        affine: bool = True,
        norm_affine: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        place: dict[str, Any] = {"dim": dim, "device": device, "dtype": dtype}
        scaled = checks.flag("affine", affine) if norm_affine is None else norm_affine
        self.norm_in = ChannelNorm(num_features, affine=scaled, **place)
        self.quantile = QAct(num_features, affine=affine, **place, **options)
        self.norm_out = ChannelNorm(num_features, affine=scaled, **place) if after else None
        # In tuples, which are no modules: the state stays that of a tree.
        self.norm_in._beside, self.quantile._beside = (self.quantile,), (self.norm_in,)
        self._stored: Kept | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Norm, quantile, norm."""
        if not torch.compiler.is_compiling() and self._stored is not None:
            output = self._stored.answer(input)
            if output is not None:
                return output
        traced = node(self, input)
        if traced is not None:
            return traced
        quantile: Any = self._modules["quantile"]
        refuse_live_context(quantile, quantile.mode)
        if quantile.training:
            refuse_transform()
        plan = self._plan()
        channels = Channels.of(input, quantile.dim, quantile.num_features)
        if plan is not None:
            several = channels.filled().input.numel() > channels.number
            if several and engines.fused(quantile.engine, input):
                given = quantile.engine, input.device, self._fused, channels, plan
                output = engines.attempt(*given)
                if output is not None:
                    return output
        elif self._ready() and _frozen() and not input.is_meta:
            return recall(channels, self.stored(), quantile.engine)
        middle = quantile(self.norm_in(input))
        return middle if self.norm_out is None else self.norm_out(middle)

    def _plan(self) -> Plan | None:
        """What to fuse, if every part is as this class made it and in training."""
        before, quantile, after = self._three()
        if not quantile.training:
            return None
        parts = self._parts()
        ours = all(type(part) in (ChannelNorm, QAct) for part in parts)
        ours = ours and quantile.context.single  # as fused kernels have it
        if not ours or not all(part.training and untouched(part, RULE, HEARD) for part in parts):
            return None
        # Scale and shift of the score, which are the block's own, do not matter to what is fused.
        plan = fuse(quantile.rule, quantile._level if quantile.table is None else quantile.level)
        if plan is None:
            return None
        outer = None if after is None else after.eps
        return planned(plan.rule, plan.kind, plan.steps, before.eps, outer)

    def _fused(self, channels: Channels, plan: Plan) -> Tensor:
        before, quantile, after = self._three()
        scales = (before.weight, before.bias, quantile.weight, quantile.bias)
        outer = (None, None) if after is None else (after.weight, after.bias)
        running = quantile.context.following(quantile._rate)
        norms = before.following, None if after is None else after.following
        return activation(channels, plan, (*scales, *outer), running, norms)

    def _ready(self) -> bool:
        """Whether all three may be read off one table."""
        parts = self._parts()
        plain = all(untouched(part, RULE, HEARD) and not part.training for part in parts)
        return plain and self.quantile.mode == "running" and self._foldable()

    def _foldable(self) -> bool:
        """Whether one table can stand for what these classes do, and for this level."""
        ours = all(type(part).__dict__.get("same_in_eval", False) for part in self._parts())
        known = all(
            n.running_mean is not None for n in (self.norm_in, self.norm_out) if n is not None
        )
        return ours and known and self.quantile._storable

    def _three(self) -> tuple[ChannelNorm, QAct, ChannelNorm | None]:
        found: Any = self._modules  # at once: a module looks a name up in three places
        return found["norm_in"], found["quantile"], found.get("norm_out")

    def _parts(self) -> list[nn.Module]:
        return [part for part in self._three() if part is not None]

    def reset_running_stats(self) -> None:
        """Forget the statistics of the norms, and the context."""
        for part in (self.norm_in, self.quantile, self.norm_out):
            if part is not None:
                part.reset_running_stats()

    def stored(self) -> Stored | Nearest:
        """Stored context and running statistics as one table; kept until something changes."""
        if exporting():
            return of_tensors(constant(self, "_table"))
        return self._kept()

    def _kept(self) -> Stored:
        kept = self._stored
        if kept is None or not kept.holds:
            parts = self._parts() if self._foldable() else None
            with self.quantile.context.alone:
                kept = self._stored = Kept(self, self._made, self.quantile, parts)
        return kept.stored

    def _made(self) -> Stored:
        return self._fold(self.quantile._kept())

    def _table(self) -> tuple[Tensor, ...]:
        return exported(self._kept())

    def _apply(self, fn: Any, recurse: bool = True) -> NormedQAct:
        """Move or cast, see :class:`qact.QAct`."""
        self._stored = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own table."""
        return {**self.__dict__, "_stored": None}

    def _fold(self, middle: Stored) -> Stored:
        folded = middle.before(*_affine(self.norm_in))
        return folded if self.norm_out is None else folded.behind(*_affine(self.norm_out))


class PaperQAct(NormedQAct):
    """The published layer (arXiv 2405.11573v1): BatchNorm, QAct in 100 steps, BatchNorm.

    Grounded step rank with one sentinel a side (+-100 stand so far out that they are taken at
    infinity), 100 levels ``k / 101``, and the density gradient of a Gaussian kernel, ``h = 0.5``.
    The paper estimates that density from 1000 random samples; here it is exact. ``eval()`` uses
    the stored context unless asked otherwise, see :func:`qact.adapting`.

    Example:
        >>> QAct.paper(8)(torch.randn(4, 8, 5, 5)).shape
        torch.Size([4, 8, 5, 5])
    """

    norm_out: ChannelNorm

    def __init__(
        self,
        num_features: int,
        *,
        dim: int = 1,
        context: str = "running",
        momentum: float | None = 0.1,
        engine: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_features,
            dim=dim,
            after=True,
            levels=_levels.steps(100),
            grounded=True,
            smooth=False,
            bandwidth=0.5,
            gradient="density",
            context=context,
            momentum=momentum,
            affine=False,
            norm_affine=True,
            sentinels=1.0,
            engine=engine,
            device=device,
            dtype=dtype,
        )


QAct.paper = PaperQAct


def _frozen() -> bool:
    """Whether a folded table may answer. A compiler fuses the norms itself, and keeps no table."""
    return exporting() or not (torch.is_grad_enabled() or torch.compiler.is_compiling())


def _affine(norm: ChannelNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) of a norm with its running statistics."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()  # type: ignore[union-attr]
    scale = 1 / (variance + norm.eps).sqrt()
    if norm.affine:
        scale = norm.weight.double() / (variance + norm.eps).sqrt()
    return scale, (norm.bias.double() if norm.affine else 0.0) - mean * scale
