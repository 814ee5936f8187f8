"""Which code runs: chosen here, below all that counts and ranks, and nowhere else.

An engine's word says what may be used: ``"reference"`` (exact, float64), ``"eager"`` (PyTorch),
``"cpu"`` (Numba), ``"triton"``, or None for the fastest that is installed and fits the moment.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from qact import _compat, checks, extras
from qact._compat import constant_result
from qact.kernels import passes as plain
from qact.kernels import stored
from qact.kernels.columns import UnusableError
from qact.rank.histogram import Settle, settled

ENGINES = ("eager", "cpu", "triton", "reference")
DEVICES = {"cpu": "cpu", "triton": "cuda"}
BLOCKS = {"cpu": "qact.kernels.cpu.block", "cuda": "qact.kernels.triton.block"}

# Why the engine of a kind of device is not used any more.
_given_up: dict[str, str] = {}


def give_up(device: str, error: BaseException) -> None:
    """Use the eager engine on such devices from now on, and say why, once."""
    if device not in _given_up:
        cause = error.__cause__ or error
        reason = _given_up[device] = f"{type(cause).__name__}: {str(cause).strip()[:500]}"
        warnings.warn(
            f"the compiled engine for {device} cannot be used, so layers run in eager PyTorch, "
            f"which is slower: {reason}",
            stacklevel=2,
        )


def attempt(
    engine: str | None, device: torch.device, work: Callable[..., Tensor], *given: Any
) -> Tensor | None:
    """What a compiled engine makes of it; None, from now on, where it does not work.

    Raises:
        UnusableError: it does not work and was asked for by name.
    """
    try:
        return work(*given)
    except UnusableError as error:
        if engine is not None:
            raise
        give_up(device.type, error)
        return None


def fits(engine: str | None, device: torch.device) -> None:
    """Raise ValueError where there is no such engine, or it cannot read that device."""
    checks.choice("engine", engine, (None, *ENGINES))
    if DEVICES.get(engine or "", device.type) != device.type:
        raise ValueError(f"engine={engine!r} cannot read an input on {device}; choose None")


def fused(engine: str | None, input: Tensor) -> bool:
    """Whether a compiled engine is asked for, or may be chosen, and is there for this input."""
    if engine not in (None, "cpu", "triton") or input.dtype == torch.float64:
        return False
    there = available(input.device.type)
    if there and torch.compiler.is_compiling():
        there = works(input.device.type)
    if engine == "triton" and input.device.type in _given_up:
        raise UnusableError(f"engine='triton' cannot be used: {_given_up[input.device.type]}")
    if engine == "triton" and not there:
        raise extras.missing("engine='triton'", "Triton", "triton")
    return there


def passes(engine: str | None, z: Tensor) -> ModuleType:
    """The five passes over data as this: `qact.kernels.passes`, or the same compiled."""
    if engine in ("eager", "reference", "triton") or not concrete(z):
        return plain
    compiled = _imported("qact.kernels.cpu.passes")
    if compiled is None and engine == "cpu":
        raise extras.missing("engine='cpu'", "Numba", "cpu")
    return compiled or plain


def lookup(engine: str | None, z: Tensor, table: stored.Stored) -> Tensor:
    """The activation of ``z`` (N, C, L) in a stored context: like ``z``, or float32."""
    output = attempt(engine, z.device, _lookup(engine, z), z, table)
    return _lookup(engine, z)(z, table) if output is None else output


def _lookup(engine: str | None, z: Tensor) -> Callable[[Tensor, stored.Stored], Tensor]:
    if engine in (None, "triton") and concrete(z, "cuda") and available("cuda"):
        return import_module("qact.kernels.triton.recall").lookup
    if passes(engine, z) is plain or z.dtype == torch.float64:  # kernels compute in float32
        return stored.lookup
    return _imported("qact.kernels.cpu.lookup").lookup  # type: ignore[union-attr]


def compiled_lookup() -> ModuleType | None:
    """The lookup for a CPU's tensors as they lie in memory, where :func:`lookup` takes it."""
    compiled = _imported("qact.kernels.cpu.lookup")
    taken = _lookup(None, torch.empty(1, 1, 1))
    return compiled if compiled is not None and taken is compiled.lookup else None


def settling(mass: Tensor) -> Settle:
    """How a histogram of such a ``mass`` is moved where two are added up."""
    if passes(None, mass) is plain:
        return settled
    return import_module("qact.kernels.cpu.merge").settled


def block(device: str) -> ModuleType | None:
    """The fused block of a kind of device, or None where its compiler cannot be used."""
    if device not in BLOCKS or device in _given_up:
        return None
    try:
        return _imported(BLOCKS[device])
    except Exception as error:  # what is installed may be broken in any way
        give_up(device, error)
        return None


def any_shape(device: str) -> bool:
    """Whether its fused block takes (N, C, ...) as it is, not as (N, C, L) alone."""
    return getattr(block(device), "ANY_SHAPE", False)


@constant_result
def available(device: str) -> bool:
    """Whether there is one; a constant for a compiler."""
    return block(device) is not None


@constant_result
def works(device: str) -> bool:
    """Whether kernels run there, by a trial of a few: a graph that holds them cannot fall back."""
    probe = getattr(block(device), "probe", None)
    try:
        if probe is not None:
            probe(device)
    except UnusableError as error:
        give_up(device, error)
    return device not in _given_up


def concrete(z: Tensor, device: str = "cpu") -> bool:
    """Whether the numbers can be read now, on such a device: nothing else looks on."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _compat.watched():
        return False
    return z.device.type == device and z.numel() > 0 and not _compat.is_fake(z)


@lru_cache
def _imported(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        return None
