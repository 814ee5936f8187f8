"""Bit flips in weights and activations: what memory faults do to a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from qact import checks
from qact.surgery import hooking, is_activation, outermost, tapped

PLACES = ("weights", "activations", "both")
_INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}


@torch.no_grad()
def flip_bits(input: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """A copy of a floating tensor in which every bit is flipped with probability ``rate``.

    All bits of all values are alike: sign, exponent and mantissa. The number of flips is binomial
    (Poisson where that is the same), their places are drawn without repetition.

    Raises:
        TypeError: the dtype has no bits that are known here.
        ValueError: ``rate`` is not a probability.

    Example:
        >>> x = torch.ones(3)
        >>> flip_bits(x, 1.0).view(torch.int32).equal(~x.view(torch.int32))
        True
    """
    if input.dtype not in _INTEGERS:
        raise TypeError(
            f"the input has dtype {input.dtype}; floats of 16, 32 or 64 bits have flips"
        )
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate!r} must lie in [0, 1]")
    integer = _INTEGERS[input.dtype]
    bits = torch.iinfo(integer).bits
    flipped = input.detach().clone(memory_format=torch.contiguous_format)
    total = flipped.numel() * bits
    count = _binomial(total, rate, generator)
    if not count:
        return flipped
    words = flipped.view(-1).view(integer)
    place = _distinct(total, count, generator).to(input.device)
    # One after the other where several hit the same word: xor of one-bit masks is their sum.
    one = torch.ones((), dtype=integer, device=input.device)
    mask = torch.zeros_like(words)
    mask.index_add_(0, place // bits, one << (place % bits).to(integer))
    words ^= mask
    return flipped


def _binomial(total: int, rate: float, generator: torch.Generator | None) -> int:
    if rate in (0, 1) or not total:
        return int(rate * total)
    shape = torch.tensor(float(total), dtype=torch.float64)
    chance = torch.tensor(rate, dtype=torch.float64)
    if total * rate < 1e3 and rate < 1e-3:
        return min(total, int(torch.poisson(shape * chance, generator=generator)))
    return int(torch.binomial(shape, chance, generator=generator))


def _distinct(total: int, count: int, generator: torch.Generator | None) -> Tensor:
    """``count`` different places among ``total``."""
    if 4 * count > total:
        return torch.randperm(total, generator=generator)[:count]
    places = torch.empty(0, dtype=torch.int64)
    while len(places) < count:
        more = torch.randint(total, (count - len(places),), generator=generator)
        places = torch.unique(torch.cat([places, more]))
    return places


@contextmanager
def faulty(
    model: nn.Module, rate: float, *, where: str = "weights", seed: int = 0
) -> Iterator[nn.Module]:
    """Within the block, bits of ``model`` are flipped with probability ``rate``; then all is back.

    ``"weights"`` flips bits of every parameter once, as a fault in their memory does, those of the
    activations included. ``"activations"`` flips bits of the outputs of all activation modules,
    anew in every forward pass. Buffers (running statistics, contexts) are left alone.

    Example:
        >>> model = nn.Linear(3, 3)
        >>> before = model.weight.clone()
        >>> with faulty(model, 0.5):
        ...     bool((model.weight != before).any())
        True
        >>> bool((model.weight == before).all())
        True
    """
    checks.choice("where", where, PLACES)
    generator = torch.Generator().manual_seed(seed)
    kept = [(p, p.detach().clone()) for p in _parameters(model)] if where != "activations" else []
    try:
        for parameter, _ in kept:
            parameter.data.copy_(flip_bits(parameter, rate, generator))
        with hooking(model) as hooks:
            if where != "weights":
                flip = partial(flip_bits, rate=rate, generator=generator)
                for _, module in outermost(model, is_activation):
                    hooks.enter_context(tapped(module, flip))
            yield model
    finally:
        for parameter, value in kept:
            parameter.data.copy_(value)


def _parameters(model: nn.Module) -> list[nn.Parameter]:
    """All parameters, those of activations last.

    One generator draws the faults of all: so the weights of a network are hit in the same places
    whether its activations have parameters or not, and what differs is due to the activations.
    """
    own = [p for _, module in outermost(model, is_activation) for p in module.parameters()]
    last = {id(p) for p in own}
    return [p for p in model.parameters() if id(p) not in last] + list(dict.fromkeys(own))
