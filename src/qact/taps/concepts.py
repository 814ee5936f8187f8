"""Concepts and shapes of activations: TCAV, dimension, codes, distances, outliers, layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.context import Context
from qact.surgery import evaluating
from qact.taps.block import Visit
from qact.taps.classifier import logits_of
from qact.taps.observe import atoms
from qact.taps.probes import probe
from qact.taps.reading import Reading
from qact.taps.taps import tap
from qact.vectors import distances


@dataclass(frozen=True)
class ConceptScore:
    """How a class answers to a concept.

    Args:
        scores: of each random set, the share of inputs whose logit rises along the concept.
        random: the same of random sets against each other.
        p: of a permutation test that both have the same mean, two-sided.
    """

    scores: tuple[float, ...]
    random: tuple[float, ...]
    p: float

    @property
    def score(self) -> float:
        """The mean over random sets, in [0, 1]; 1/2 says nothing."""
        return sum(self.scores) / len(self.scores)


def tcav(
    model: nn.Module,
    where: str,
    target: int,
    inputs: Tensor,
    concept: Tensor,
    random: Sequence[Tensor],
    *,
    decay: float = 1.0,
) -> ConceptScore:
    """Test whether a class's logit rises along a concept at a layer: testing with concept vectors.

    A concept's vector is the normal of a logistic probe between its activations and those of a
    random set; the score is the share of ``inputs`` with ``grad h_target(f(x)) . v > 0`` (Kim et
    al. 2018, arXiv 1711.11279). A concept means something only if its scores differ from those of
    random sets against each other, each pair both ways, which is tested by exchanging them.

    Args:
        model: a classifier, run in ``eval()``.
        where: the name of the layer.
        target: the class.
        inputs: samples of the class.
        concept: samples with the concept.
        random: two or more sets of samples without; more of them tell more.
        decay: of the probes.

    Raises:
        ValueError: fewer than two random sets, or there is no such layer or class.
    """
    if len(random) < 2:
        raise ValueError(f"random has {len(random)} sets; a test needs two or more")
    slopes = _slopes(model, where, target, inputs)
    positive = _flat(model, where, concept)
    negatives = [_flat(model, where, part) for part in random]

    def score(a: Tensor, b: Tensor) -> float:
        labels = torch.cat([torch.ones(len(a)), torch.zeros(len(b))]).long()
        weight = probe(torch.cat([a, b]), labels, decay=decay).weight
        return float((slopes @ (weight[1] - weight[0]) > 0).double().mean())

    ours = tuple(score(positive, other) for other in negatives)
    pairs = [(a, b) for i, a in enumerate(negatives) for b in negatives[i + 1 :]]
    one_way = [score(a, b) for a, b in pairs]
    theirs = (*one_way, *(1 - s for s in one_way))  # the other way, the vector is turned round
    return ConceptScore(ours, theirs, exchanged(ours, theirs))


def _slopes(model: nn.Module, where: str, target: int, inputs: Tensor) -> Tensor:
    """Gradients of a class's logit by a layer's activations, (N, all of them), float64."""
    zeros: list[Tensor] = []

    def offset(z: Tensor, visit: Visit) -> Tensor:
        zeros.append(torch.zeros_like(z, requires_grad=True))
        return z + zeros[-1]

    with evaluating(model), torch.enable_grad(), tap(model, where).change(offset):
        logits = logits_of(model, inputs)
    checks.choice("target", target, tuple(range(logits.shape[1])))
    if len(zeros) != 1:
        raise ValueError(
            f"{where!r} was run {len(zeros)} times in a pass; name a place that is run once"
        )
    (slope,) = torch.autograd.grad(logits[:, target].sum(), zeros)
    return slope.flatten(1).double()


def _flat(model: nn.Module, where: str, inputs: Tensor) -> Tensor:
    reading = tap(model, where).read()
    reading.run(inputs)
    return reading.value.flatten(1)


def exchanged(a: Sequence[float], b: Sequence[float], draws: int = 9999, seed: int = 0) -> float:
    """Two-sided p of a permutation test that ``a`` and ``b`` have the same mean.

    ``(1 + draws as extreme) / (1 + draws)``, which is never 0 (Phipson and Smyth 2010).
    """
    joint = torch.tensor([*a, *b], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(draws, len(joint), generator=generator, dtype=torch.float32).argsort(1)
    rows = joint[order]
    gaps = (rows[:, : len(a)].mean(1) - rows[:, len(a) :].mean(1)).abs()
    found = (joint[: len(a)].mean() - joint[len(a) :].mean()).abs()
    return float(1 + (gaps >= found - 1e-12).sum()) / (1 + draws)


def intrinsic_dimension(values: Tensor, neighbours: int = 20) -> Tensor:
    """Return the local intrinsic dimension of each point, (N,), by maximum likelihood.

    ``m(x) = (1 / (T - 1) sum_(j < T) log(d_T / d_j))^-1`` over the ``T`` nearest neighbours (Levina
    and Bickel 2004, equation 8). It does not change with scale or rotation.

    Args:
        values: (N, C), no two alike.
        neighbours: ``T``, from 2 to N - 1.

    Raises:
        ValueError: there are too few points, or some stand in the same place.
    """
    checks.integer("neighbours", neighbours, 2)
    checks.tensors(values=values)
    if values.dim() != 2 or len(values) <= neighbours:
        raise ValueError(
            f"values have shape {tuple(values.shape)}; give more than {neighbours} rows"
        )
    distance = distances(values.double(), values.double())
    near = distance.topk(neighbours + 1, largest=False).values[:, 1:]
    if not bool((near[:, 0] > 0).all()):
        raise ValueError("some points stand in the same place; take each once")
    return (near[:, -1:] / near[:, :-1]).log().mean(1).reciprocal()


def codes(values: Tensor, threshold: float = 0.0) -> Tensor:
    """Return the activation pattern of each sample, ``1[z > threshold]``, (N, all), boolean.

    Of pre-activations of ReLUs, it is constant in each linear region (He et al. 2021, arXiv
    2101.06490).
    """
    checks.tensors(values=values)
    return values.flatten(1) > threshold


def redundancy(patterns: Tensor) -> float:
    """Return the share of samples that have their code from another: 0 where all are unique."""
    checks.tensors(patterns=patterns)
    if not patterns.dim() or not len(patterns):
        raise ValueError(f"patterns of shape {tuple(patterns.shape)} hold no sample")
    return 1 - len(patterns.unique(dim=0)) / len(patterns)


def procrustes(a: Tensor, b: Tensor) -> float:
    """Return the distance of two representations of the same samples, up to rotation and shift.

    ``min over orthogonal Q of |A - B Q|_F`` of centred activations (N, C), a metric (Williams et
    al. 2021, arXiv 2110.14739; of stochastic ones with no spread, Duong et al. 2022, arXiv
    2211.11665). The narrower one is filled up with zeros.

    Raises:
        ValueError: they are not of the same samples, or not finite.
    """
    checks.tensors(a=a, b=b)
    if a.dim() != 2 or b.dim() != 2 or len(a) != len(b):
        raise ValueError(
            f"{tuple(a.shape)} and {tuple(b.shape)} are not (N, C) of the same samples"
        )
    for name, values in (("a", a), ("b", b)):
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name} holds values that are not finite")
    x, y = (z.double() - z.double().mean(0) for z in (a, b))
    common = float(torch.linalg.svdvals(x.mT @ y).sum())
    return math.sqrt(max(float(x.square().sum() + y.square().sum()) - 2 * common, 0.0))


@dataclass(frozen=True)
class Massive:
    """One entry that is huge beside the rest of its layer."""

    name: str
    channel: int
    value: float
    ratio: float


def massive(reading: Reading, least: float = 100.0, ratio: float = 1000.0) -> list[Massive]:
    """Channels with values above ``least`` and ``ratio`` times the layer's median magnitude.

    The rule of Sun et al. 2024 (arXiv 2402.17762), on all values that ``tap(model).read()`` has
    kept. (A context leaves what stands far out to its outermost bins.)
    """
    found = []
    for place in reading.places:
        z = reading[place.name]
        rows = z.movedim(place.channel(z), 0).flatten(1)
        median = float(rows.abs().median())
        top, at = rows.abs().max(1)
        for channel in (top > max(least, ratio * median)).nonzero().flatten().tolist():
            by = float(top[channel]) / median if median else math.inf
            found.append(Massive(place.name, channel, float(rows[channel, at[channel]]), by))
    return found


def divergence(a: Context, b: Context, bins: int = 64) -> Tensor:
    """Return the Jensen-Shannon divergence of each channel of two contexts, (C,), in [0, ln 2].

    Masses are compared in ``bins`` equal steps of the range of both.
    """
    if a.num_features != b.num_features:
        raise ValueError(f"contexts have {a.num_features} and {b.num_features} channels")
    sides = [atoms(context.histogram) for context in (a, b)]
    full = [torch.where(mass > 0, values, math.nan) for values, mass in sides]
    low = torch.cat(full, 1).nan_to_num(math.inf).amin(1)
    high = torch.cat(full, 1).nan_to_num(-math.inf).amax(1)
    step = ((high - low) / bins).clamp_min(1e-300)[:, None]
    shares = []
    for values, mass in sides:
        cell = ((values - low[:, None]) / step).clamp(0, bins - 1).long()
        counted = mass.new_zeros(len(mass), bins).scatter_add(1, cell, mass)
        shares.append(counted / counted.sum(1, keepdim=True))
    middle = (shares[0] + shares[1]) / 2
    parts = [torch.where(p > 0, p * (p / middle).log(), 0.0).sum(1) for p in shares]
    return (parts[0] + parts[1]) / 2


def choose_layer(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """Return the place where two sets of inputs differ most, and all mean divergences of channels.

    Contrastive layer search (Wang and Shu 2023, arXiv 2311.09433) on contexts of both sets.
    """
    found = {name: float(divergence(a[name], b[name]).mean()) for name in a}
    return max(found, key=lambda name: found[name]), found
