"""`quantile_activation`: the activation as a pure function of its input and a context."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qact import checks
from qact.context import Context
from qact.kernels import eager, engines, reference
from qact.kernels.block import Running, activation
from qact.kernels.fast_export import Nearest
from qact.kernels.pieces import Pieces
from qact.kernels.plan import fuse
from qact.kernels.stored import Stored
from qact.rank import levels as _levels
from qact.rank.bandwidth import Bandwidth
from qact.rank.bandwidth import parse as parse_bandwidth
from qact.rank.histogram import Histogram, merge
from qact.rank.layout import Channels
from qact.rank.levels import Level
from qact.rank.rule import Rule


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
    channels = Channels.of(input, dim)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.shape != (channels.number,):
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; expected ({channels.number},)"
            )
    if context is not None and not isinstance(context, Context):
        raise TypeError(f"context={context!r} must be a qact.Context, or None for the batch")
    if prior is not None:
        if context is None:
            raise ValueError(f"prior={prior!r} weighs a stored context, and none was given")
        checks.number("prior", prior, "a positive number of samples", 0)
    if weight is not None or bias is not None:
        level = level.affine(weight, bias)
    return transform(channels, rule, level, context, prior, engine)


def transform(
    channels: Channels,
    rule: Rule,
    level: Level,
    context: Context | None,
    prior: float | None = None,
    engine: str | None = None,
    running: Running | None = None,
    known: Tensor | Pieces | None = None,
) -> Tensor:
    """The core, on an input that has been asked. A ``running`` context follows the batch.

    What is ``known`` of the output (N, C, L), or of its table, is what `eval()` reads.
    """
    input = channels.input
    engines.fits(engine, input.device)
    if context is None:
        channels.filled()
    else:
        context.ready(channels)
        if channels.empty:
            return input.clone()
    with torch.autocast(input.device.type, enabled=False):
        plan = None
        if context is None and engines.fused(engine, input) and _single(running):
            plan = fuse(rule, level)
        if plan is not None:
            affine = (None, None, *_columns(level), None, None)
            given = channels, plan, affine, running
            output = engines.attempt(engine, input.device, activation, *given)
            if output is not None:
                return output
        if engine == "reference":
            output, seen = _reference(channels, rule, level, context, prior), None
        else:
            output, seen = _counted(channels, rule, level, context, prior, engine, known)
        if running is not None:
            with torch.no_grad():
                # The reference engine keeps no histogram.
                seen = eager.observe(channels.z.detach(), rule) if seen is None else seen.detach()
                running[0].follow(seen, running[1])
        return channels.back(output)


def _single(running: Running | None) -> bool:
    """Whether what follows is kept in float32, as fused kernels have it."""
    return running is None or running[0].single


def recall(channels: Channels, stored: Stored | Nearest, engine: str | None) -> Tensor:
    """The activation of an input in a context that was made ready for inference."""
    if channels.empty:
        return channels.input.clone()
    if isinstance(stored, Nearest):
        return stored(channels.input, channels.dim)
    if stored.after is None:
        return channels.back(engines.lookup(engine, channels.z, stored))
    return channels.back(stored.after(engines.lookup(engine, channels.z.float(), stored)))


def _counted(
    channels: Channels,
    rule: Rule,
    level: Level,
    context: Context | None,
    prior: float | None,
    engine: str | None,
    known: Tensor | Pieces | None,
) -> tuple[Tensor, Histogram | None]:
    """The output by the five general passes, and the batch's histogram if one was made."""
    z = channels.z
    if context is not None and prior is None:
        return eager.apply(z, context.histogram, level, rule, engine=engine, known=known), None
    batch = eager.observe(z, rule, engine=engine)
    joint = batch
    if context is not None and prior is not None:
        joint = merge(_scaled(context, channels, prior).to(batch.mass.dtype), batch)
    return eager.apply(z, joint, level, rule, own=joint is batch, engine=engine), batch


def _columns(level: Level) -> tuple[Tensor | None, Tensor | None]:
    """Scale and shift of the score, one of each per channel (C,)."""
    # Backwards, what is squeezed is a view too; what is selected would be copied.
    return tuple(None if t is None else t.squeeze(1) for t in (level.weight, level.bias))  # type: ignore[return-value]


def _reference(
    channels: Channels, rule: Rule, level: Level, context: Context | None, prior: float | None
) -> Tensor:
    z = channels.z
    if context is None:
        return reference.apply(z, reference.observe(z), level, rule)
    if prior is None:
        return reference.apply(z, reference.recall(context.histogram), level, rule)
    stored = reference.recall(_scaled(context, channels, prior))
    return reference.apply(z, reference.join(stored, reference.observe(z)), level, rule)


def _scaled(context: Context, channels: Channels, prior: float) -> Histogram:
    """The stored context, weighing as much as ``prior`` samples of this input."""
    stored, z = context.histogram, channels.input
    positions = z.numel() / (channels.number * channels.samples)
    return stored.scaled(prior * positions / stored.count)
