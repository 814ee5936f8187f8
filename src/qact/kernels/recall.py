"""The lookup in a stored context as an operator of ``torch.library``: for compilers.

qact::recall   values -> activations

A compiled graph holds the context and not its table. The operator makes the table at its first
call, and keeps it until one of the tensors that it was made of changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.library import custom_op
from torch.utils.weak import WeakTensorKeyDictionary

from qact._compat import tensors_by_name
from qact.kernels import engines
from qact.kernels.stored import Stored, store
from qact.rank import levels
from qact.rank.bandwidth import Bandwidth
from qact.rank.grid import stored
from qact.rank.histogram import Histogram
from qact.rank.levels import Level
from qact.rank.rule import GROUNDINGS, Rule

# By the mass of a context; a second layer on the same context takes the place of the first.
_kept: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def named(level: Level) -> bool:
    """Whether a level's name says all of it but its tensors: a schema has no functions."""
    try:
        known = _known(level.name)
    except ValueError:
        return False
    return (known.score, known.activation) == (level.score, level.activation)


def numbers(rule: Rule) -> list[float]:
    """A rule of a stored context for the operator's schema: it passes no gradient."""
    h = rule.bandwidth
    options = (rule.grounding, rule.smooth, h.absolute, h.relative, h.power, rule.sentinels)
    return [float(option) for option in options]


_version = attrgetter("_version")


def held(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers of a module and of all in it, without their names, which cost time."""
    return [t for by_name in tensors_by_name(module) for t in by_name.values() if t is not None]


def versions(tensors: Sequence[Tensor]) -> tuple[list[int], list[int]] | None:
    """What differs after any change to the tensors; None where torch does not count changes."""
    try:
        return [*map(Tensor.data_ptr, tensors)], [*map(_version, tensors)]
    except RuntimeError:  # one was made in inference mode
        return None


@custom_op("qact::recall", mutates_args=())
def recall(
    z: Tensor,
    context: Sequence[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    table: Tensor | None,
    level: str,
    rule: Sequence[float],
) -> Tensor:
    """The activation of ``z`` (N, C, L) float32 in a context of seven tensors, ``batches`` last."""
    given = [t for t in (*context, weight, bias, table) if t is not None]
    now, kept = versions(given), _kept.get(context[0])
    if now is None or kept is None or kept[0] != (now, level, *rule):
        kept = (now, level, *rule), _store(context, weight, bias, table, level, rule)
        _kept[context[0]] = kept
    return engines.lookup(None, z, kept[1])


@recall.register_fake
def _(z, *rest):  # type: ignore[no-untyped-def]
    return torch.empty_like(z, memory_format=torch.contiguous_format)


def _store(context, weight, bias, table, level, rule) -> Stored:  # type: ignore[no-untyped-def]
    mass, moment, mean, std, exponent, offset, _ = context
    histogram = Histogram(mass, moment, stored(exponent, offset, mass.shape[1]), mean, std)
    grounded, smooth, *h, sentinels = rule
    named = GROUNDINGS[int(grounded)]
    plain = Rule(named, bool(smooth), Bandwidth(*h), sentinels=sentinels)
    made = levels.table(table) if table is not None else _known(level).affine(weight, bias)
    if bool((histogram.count == 0).any()):
        raise RuntimeError("this context has seen no data; train the layer or load a state first")
    return store(histogram, made, plain)


def _known(name: str) -> Level:
    if name.startswith("steps("):
        return levels.steps(int(name[6:-1]))
    return levels.parse(name)
