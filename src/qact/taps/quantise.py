"""Fake quantisation with contexts as observers: ranges from histograms, applied by taps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.context import Context
from qact.surgery import Where, inner, is_activation, outermost
from qact.taps.block import Changing, Visit
from qact.taps.observe import atoms
from qact.taps.place import places
from qact.taps.quantisers import Quantiser, Uniform, error
from qact.taps.taps import tap
from qact.vectors import unit_of

CLIPS = ("minmax", "quantile", "mse", "kl")
BINS = 512
FINE = 2048  # bins of a layer's histogram in the search by KL
POOLED = 4096  # values that a search reads: 16 to a step of eight bits


def clip_range(
    context: Context, bits: int, clip: str = "mse", share: float = 0.9999
) -> tuple[float, float]:
    """Return the ends of a layer's range, read off its context.

    - ``"minmax"``: all that was seen.
    - ``"quantile"``: the middle ``share`` of all values.
    - ``"mse"``: of ranges shrunk towards zero, that of least squared error of ``bits`` bits.
    - ``"kl"``: that of least Kullback-Leibler divergence from what was seen to what the codes can
      tell (Migacz 2017, TensorRT).

    Raises:
        ValueError: ``clip`` is unknown. RuntimeError: the context has seen no data.
    """
    checks.choice("clip", clip, CLIPS)
    context.require_data()
    values, mass = (part.flatten() for part in atoms(context.histogram))
    values, mass = values[mass > 0], mass[mass > 0]
    low, high = (float(end) for end in values.aminmax())
    if clip == "minmax":
        return low, high
    values, mass = _pooled(values, mass, low, high)
    if clip == "quantile":
        below = mass.cumsum(0) / mass.sum()
        first = int(torch.searchsorted(below, (1 - share) / 2))
        last = int(torch.searchsorted(below, (1 + share) / 2))
        return float(values[first]), float(values[min(last, len(values) - 1)])
    factors = torch.linspace(0.1, 1, 91, dtype=torch.float32).tolist()
    lossy = _squared if clip == "mse" else _divergence
    losses = [lossy(values, mass, f * low, f * high, bits) for f in factors]
    best = factors[min(range(len(factors)), key=lambda k: (losses[k], -k))]
    return best * low, best * high


def _pooled(values: Tensor, mass: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Values in order with masses; where there are many, those of a fine bin at their mean."""
    if len(values) <= POOLED or high <= low:
        values, order = values.sort()
        return values, mass[order]
    place = ((values - low) * (POOLED / (high - low))).long().clamp_(max=POOLED - 1)
    total = place.bincount(mass, POOLED)
    some = total > 0
    return (place.bincount(mass * values, POOLED)[some] / total[some]), total[some]


def _squared(values: Tensor, mass: Tensor, low: float, high: float, bits: int) -> float:
    return error(Uniform(bits, low, high), values, mass)


def _divergence(values: Tensor, mass: Tensor, low: float, high: float, bits: int) -> float:
    """Of the clipped histogram from its quantised version, spread over the bins that are full."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high <= low:
        return 0.0
    place = ((values - low) / (high - low) * FINE).long()
    inside = (place >= 0) & (place < FINE)
    seen = mass.new_zeros(FINE).index_add(0, place.clamp(0, FINE - 1), mass)
    plain = mass.new_zeros(FINE).index_add(0, place[inside], mass[inside])
    level = torch.arange(FINE) * 2**bits // FINE if 2**bits < FINE else torch.arange(FINE)
    levels = int(level.max()) + 1
    total = mass.new_zeros(levels).index_add(0, level, plain)
    full = mass.new_zeros(levels).index_add(0, level, (seen > 0).double())
    told = torch.where(seen > 0, (total / full.clamp_min(1))[level], 0.0)
    p, q = seen / seen.sum(), told / told.sum().clamp_min(1e-300)
    some = p > 0
    return float((p[some] * (p[some] / q[some].clamp_min(1e-12)).log()).sum())


def quantise(
    model: nn.Module,
    batches: Any,
    bits: int = 8,
    where: Where = None,
    *,
    clip: str = "mse",
    quantisers: Mapping[str, Quantiser] | None = None,
) -> Changing:
    """Within a block, let what layers return pass ``bits`` bits: fake quantisation.

    Ranges come from contexts: no second pass over the data, and no new observer. Gradients pass
    straight through, so that a block around training is quantisation-aware training.

    Args:
        model: any network; it stays as it is.
        batches: calibration data, one pass in ``eval()``; or contexts by the layers' names, as
            ``tap(model, where).observe(bins=512)`` counts them.
        bits: of a code, 1 to 16.
        where: places as in :func:`qact.tap`; None is every activation.
        clip: how a range is chosen, see :func:`clip_range`.
        quantisers: others than uniform ones, by the name of the place.

    Raises:
        ValueError: there is no such place, or an option does not fit.

    Example:
        >>> import qact
        >>> net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU()), torch.randn(64, 4)
        >>> with qact.taps.quantise(net, x, bits=2):
        ...     len(net(x).unique()) <= 4
        True
    """
    checks.integer("bits", bits, 1)
    checks.choice("clip", clip, CLIPS)
    if where is None:
        where = [name for name, _ in outermost(inner(model), is_activation)] or _activation
    found = places(model, where)
    if isinstance(batches, Mapping) and all(isinstance(batches[n], Context) for n in batches):
        contexts: Mapping[str, Context] = batches
    else:
        contexts = tap(model, where).observe(bins=BINS)
        contexts.run(batches)
    given = dict(quantisers or {})
    for place in found:
        if place.name not in given:
            if place.name not in contexts:
                raise ValueError(f"there is no context for {place.name!r}")
            given[place.name] = Uniform(bits, *clip_range(contexts[place.name], bits, clip))

    def change(z: Tensor, visit: Visit) -> Tensor:
        return given[visit.name](z)

    return Changing(model, found, change)


def _activation(module: nn.Module, name: str) -> bool:
    """What is asked for where there is none, so that the refusal says so."""
    return is_activation(module)


def kurtosis(x: Tensor, dim: int | None = None) -> Tensor:
    """``E[(x - mean)^4] / std^4``, differentiable: 3 of a Gaussian, 1.8 of a uniform law.

    As a penalty it draws outliers in (Nrusimha et al. 2024, arXiv 2404.03605).
    """
    checks.tensors(x=x)
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; a floating dtype is needed")
    x = x / unit_of(x, dim)  # the fourth powers of float32 overflow from 4e9 on
    centred = x - x.mean(dim, keepdim=True) if dim is not None else x - x.mean()
    square = centred.square()
    if dim is None:
        return square.square().mean() / square.mean().square()
    return square.square().mean(dim) / square.mean(dim).square()


def noisy_linear(x: Tensor, weight: Tensor, bias: Tensor, noise: Tensor, quantiser: Any) -> Tensor:
    """``W Q(x + n) + (b - W n)``: NoisyQuant (Liu et al. 2023, arXiv 2211.16056).

    Args:
        x: (..., C).
        weight: (K, C).
        bias: (K,).
        noise: ``n``, (C,), fixed.
        quantiser: ``Q``.
    """
    return quantiser(x + noise) @ weight.mT + (bias - weight @ noise)


def softmax_bias(weights: Tensor, quantiser: Any) -> Tensor:
    """``beta = E[p - Q(p)]`` of softmax outputs (..., K): added, the mean of the codes is right.

    Pandey et al. 2023, arXiv 2309.01729: one constant, so that rows sum to 1 on average.
    """
    return (weights - quantiser(weights)).mean()


def hadamard(size: int, like: Tensor | None = None) -> Tensor:
    """Return the orthonormal Hadamard matrix ``H`` of a power of two: ``(x H)(H^T W) = x W``.

    An outlier of size c in one channel becomes ``c / sqrt(size)`` in all (Sylvester 1867).

    Raises:
        ValueError: ``size`` is no power of two.
    """
    checks.integer("size", size, 1)
    if size & (size - 1):
        raise ValueError(f"size={size} must be a power of two")
    made = torch.ones(1, 1, dtype=torch.float64)
    while len(made) < size:
        made = torch.cat([torch.cat([made, made], 1), torch.cat([made, -made], 1)])
    made = made / size**0.5
    return made if like is None else made.to(like)


def reparameterise(
    norm: tuple[Tensor, Tensor], linear: tuple[Tensor, Tensor], scale: Tensor, zero: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Fold per-channel scales and zero points behind a LayerNorm into one of each: RepQ-ViT.

    ``r1 = s / mean(s)``, ``r2 = z - mean(z)``; ``gamma' = gamma / r1``, ``beta' = (beta + s r2) /
    r1``, ``W' = r1 W``, ``b' = b - W (s r2)`` (Li et al. 2023, arXiv 2212.08254): the network is
    the same, and the layer's scale is ``mean(s)`` and its zero point ``mean(z)``.

    Args:
        norm: ``gamma`` and ``beta`` (C,).
        linear: ``W`` (K, C) and ``b`` (K,).
        scale: ``s`` per channel (C,).
        zero: ``z`` per channel (C,).
    """
    (gamma, beta), (weight, bias) = norm, linear
    r1, moved = scale / scale.mean(), scale * (zero - zero.mean())
    return (gamma / r1, (beta + moved) / r1), (weight * r1, bias - weight @ moved)


def awq_scales(
    weight: Tensor, x: Tensor, bits: int = 4, steps: int = 20
) -> tuple[Tensor, list[float]]:
    """Scales of input channels under which quantised weights cost the output least: AWQ.

    ``Q(W diag(s)) diag(s)^-1 x`` with ``s = mean|x|^alpha``, ``alpha`` in [0, 1] by search (Lin et
    al. 2023, arXiv 2306.00978). Rows of ``W`` are quantised by their extents.

    Args:
        weight: (K, C).
        x: inputs (N, C).
        bits: of a weight.
        steps: how many ``alpha`` beside 0.

    Returns:
        The scales (C,), and the mean squared errors of the outputs by ``alpha``, 0 first.
    """
    size = x.abs().mean(0)
    size = (size / torch.where(size.max() > 0, size.max(), 1.0)).clamp_min(1e-8)  # in no unit
    exact, tried = x @ weight.mT, []
    for k in range(steps + 1):
        scale = size ** (k / steps)
        scale = scale / (scale.max() * scale.min()).sqrt()
        wide = weight * scale
        rows = Uniform(bits, wide.amin(1, keepdim=True), wide.amax(1, keepdim=True))
        found = x @ (rows(wide) / scale).mT
        tried.append((float((found - exact).square().mean()), scale))
    best = min(range(len(tried)), key=lambda k: tried[k][0])
    return tried[best][1], [loss for loss, _ in tried]
