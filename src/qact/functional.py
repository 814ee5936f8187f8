"""`quantile_activation`: the activation as a pure function of its input and a context."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from qact import checks
from qact.context import Context
from qact.kernels import eager, reference
from qact.kernels import passes as plain
from qact.kernels.block import block, fusable
from qact.kernels.plan import fuse
from qact.kernels.stored import Stored, lookup
from qact.rank import levels as _levels
from qact.rank.bandwidth import Bandwidth
from qact.rank.bandwidth import parse as parse_bandwidth
from qact.rank.histogram import Histogram, merge
from qact.rank.layout import channel_dim, fold, unfold
from qact.rank.levels import Level
from qact.rank.rule import Rule

ENGINES = ("eager", "cpu", "triton", "reference")


def quantile_activation(
    input: Tensor,
    *,
    dim: int = 1,
    context: Context | None = None,
    prior: float | None = None,
    grounded: bool | str = True,
    levels: str | Level | Callable[[Tensor], Tensor] = "uniform",
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    smooth: bool = True,
    bandwidth: float | str | Bandwidth = "scott",
    gradient: str = "full",
    sentinels: float = 0.0,
    engine: str | None = None,
) -> Tensor:
    """Where each value stands in its context: ``level(weight * score(F(z)) + bias)``.

    The context of a value is its channel: all batch and spatial positions. Its rank is

        F(z)   = F_low + sum_i w_i 1[z_i <= z]              (``smooth=False``)
        F_h(z) = F_low + sum_i w_i Phi((z - z_i) / h)       (``smooth=True``)

    with ``w_i = 1 / n``, or ``1 / (2 n_side)`` on each side of zero (``grounded="sides"``, arXiv
    2405.11573v1 eq. 7-8). There all ranks jump when a value crosses zero; ``"continuous"`` is made
    of the ungrounded ``F_h`` and ``q = F_h(0)`` and has no jump: ``F_h(z) / (2 q)`` below zero,
    ``1/2 + (F_h(z) - q) / (2 (1 - q))`` above. (A step rank has no width to share out: for it both
    are ``"sides"``.) A side without values keeps its half at infinity: an all-negative context
    gives ranks up to 1/2.

    Args:
        input: any shape with channels at ``dim``; float16, bfloat16 (computed in float32), float32
            or float64. A channel with a value that is not finite gives NaN throughout.
        dim: the channel dimension; 1 for convolutions and features, -1 for tokens.
        context: None for the batch itself, or a stored :class:`qact.Context`.
        prior: with a stored context, join the batch to it: the stored context then counts as this
            many samples (rows of ``input``).
        grounded: ``"sides"``, ``"continuous"``, True for the default of the two, or False.
        levels: ``"uniform"``, ``"steps"``, ``"normal"``, a scalar activation of the normal score
            (``"relu"``, ``"gelu"``, ...), any function, or a :class:`qact.rank.levels.Level`.
        weight: (C,) scale of the score.
        bias: (C,) shift of the score.
        bandwidth: ``h``: a number (units of ``input``), ``"scott"``, ``"silverman"``, ``"0.2std"``.
        gradient: ``"full"`` differentiates the context: with ``g = dL/dF``,
            ``dL/dz_j = g_j f_h(z_j) - w_j sum_i g_i phi_h(z_i - z_j)`` and, for a bandwidth that
            follows the data, its own term; ``"density"`` is the first term alone (the paper). The
            step rank borrows the gradient of its smooth twin.
        sentinels: pseudo-values at each infinity (the paper's +-100 make it 1).
        engine: ``"eager"`` (histogram, plain PyTorch), ``"cpu"`` (the same compiled by Numba),
            ``"triton"`` (on CUDA), ``"reference"`` (exact, float64, slow), or None for the fastest
            that is installed.

    Returns:
        A tensor like ``input``.

    Raises:
        TypeError: for a dtype that is not floating. ValueError: for options or shapes that do not
            fit. RuntimeError: for a stored context that has seen no data.

    Example:
        >>> z = torch.tensor([[-3.0], [-1.0], [1.0], [2.0]])
        >>> quantile_activation(z, smooth=False).squeeze(1)
        tensor([0.2500, 0.5000, 0.7500, 1.0000])
    """
    rule = Rule(grounded, smooth, parse_bandwidth(bandwidth), gradient, sentinels)
    level = _levels.parse(levels)
    check(input, dim, weight, bias, context)
    if prior is not None:
        if context is None:
            raise ValueError(f"prior={prior!r} weighs a stored context, and none was given")
        checks.number("prior", prior, "a positive number of samples", 0)
    if weight is not None or bias is not None:
        level = level.affine(weight, bias)
    return transform(input, dim, rule, level, context, prior, engine)


def transform(
    input: Tensor,
    dim: int,
    rule: Rule,
    level: Level,
    context: Context | None,
    prior: float | None = None,
    engine: str | None = None,
    running: tuple[Context, float | None] | None = None,
) -> Tensor:
    """The checked core. A ``running`` context, with its momentum, follows the batch."""
    checks.choice("engine", engine, (None, *ENGINES))
    home = {"cpu": "cpu", "triton": "cuda"}.get(engine or "", input.device.type)
    if home != input.device.type:
        raise ValueError(f"engine={engine!r} cannot read an input on {input.device}; choose None")
    with torch.autocast(input.device.type, enabled=False):
        z = fold(input, dim)
        plan = fuse(rule, level) if context is None and fusable(engine, input) else None
        if plan is not None:
            affine = (None, None, *_columns(level), None, None)
            return unfold(block(z, plan, affine, running)[0], input, dim)
        if engine == "reference":
            output, seen = _reference(z, input, dim, rule, level, context, prior), None
        else:
            output, seen = _counted(z, input, dim, rule, level, context, prior, engine)
        if running is not None:
            with torch.no_grad():
                # The reference engine keeps no histogram.
                seen = eager.observe(z.detach(), rule) if seen is None else seen.detach()
                running[0].follow(seen, running[1])
        return unfold(output, input, dim)


def recall(input: Tensor, dim: int, stored: Stored, engine: str | None) -> Tensor:
    """The activation of ``input`` in a context that was made ready for inference."""
    z = fold(input, dim)
    wide = z.float().contiguous()
    output = _lookup(engine, input)(wide, stored)
    if stored.after is not None:
        output = stored.after(output)
    return unfold(output.to(z.dtype), input, dim)


def _counted(
    z: Tensor,
    input: Tensor,
    dim: int,
    rule: Rule,
    level: Level,
    context: Context | None,
    prior: float | None,
    engine: str | None,
) -> tuple[Tensor, Histogram | None]:
    """The output by the five general passes, and the batch's histogram if one was made."""
    passes = passes_for(engine, input)
    if context is not None and prior is None:
        return eager.apply(z, context.histogram, level, rule, passes=passes), None
    batch = eager.observe(z, rule, passes=passes)
    joint = batch
    if context is not None and prior is not None:
        joint = merge(_scaled(context, input, dim, prior).to(batch.mass.dtype), batch)
    return eager.apply(z, joint, level, rule, own=joint is batch, passes=passes), batch


def _columns(level: Level) -> tuple[Tensor | None, Tensor | None]:
    """Scale and shift of the score, one of each per channel (C,)."""
    return tuple(None if t is None else t[:, 0] for t in (level.weight, level.bias))  # type: ignore[return-value]


def _lookup(engine: str | None, input: Tensor) -> Callable[[Tensor, Stored], Tensor]:
    compiled = passes_for(engine, input)
    if compiled is plain:
        return lookup
    from qact.kernels.cpu.lookup import lookup as fast

    return fast


def passes_for(engine: str | None, input: Tensor) -> ModuleType:
    """The module of data passes for this engine and device."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    traced = traced or torch._C._are_functorch_transforms_active()
    if engine == "eager" or input.device.type != "cpu" or traced:
        return plain
    compiled = _compiled()
    if compiled is None and engine == "cpu":
        raise ModuleNotFoundError("engine='cpu' needs Numba; pip install 'qact[cpu]'")
    return compiled or plain


@lru_cache(maxsize=1)
def _compiled() -> ModuleType | None:
    try:
        from qact.kernels.cpu import passes
    except ModuleNotFoundError:
        return None
    return passes


def _reference(
    z: Tensor,
    input: Tensor,
    dim: int,
    rule: Rule,
    level: Level,
    context: Context | None,
    prior: Any,
) -> Tensor:
    if context is None:
        return reference.apply(z, reference.observe(z), level, rule)
    if prior is None:
        return reference.apply(z, reference.recall(context.histogram), level, rule)
    stored = reference.recall(_scaled(context, input, dim, prior))
    return reference.apply(z, reference.join(stored, reference.observe(z)), level, rule)


def _scaled(context: Context, input: Tensor, dim: int, prior: float) -> Histogram:
    """The stored context, weighing as much as ``prior`` samples of this input."""
    stored = context.histogram
    dim = channel_dim(input, dim)
    sizes = [size for i, size in enumerate(input.shape) if i != dim]
    positions = float(math.prod(sizes[1:]))  # the first other dimension counts the samples
    return stored.scaled(prior * positions / stored.count)


def check(
    input: Tensor, dim: int, weight: Tensor | None, bias: Tensor | None, context: Context | None
) -> None:
    """Refuse what cannot be ranked, with the value that was wrong."""
    if not input.is_floating_point():
        raise TypeError(f"the input has dtype {input.dtype}; a floating dtype is needed")
    channels = input.shape[channel_dim(input, dim)]
    if input.numel() == 0:
        raise ValueError(f"the input has shape {tuple(input.shape)}: an empty batch has no ranks")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.shape != (channels,):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected ({channels},)")
    if context is not None:
        if not isinstance(context, Context):
            raise TypeError(f"context={context!r} must be a qact.Context, or None for the batch")
        if context.num_features != channels:
            raise ValueError(
                f"the input has {channels} channels at dim {dim} (shape {tuple(input.shape)}), "
                f"the context has {context.num_features}"
            )
        if not torch.compiler.is_compiling():  # a compiler cannot ask the data
            context.require_data()
