"""Lend the layers of a model other statistics than they have stored, for a block and one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact._compat import AnyBatchNorm
from qact.kernels import eager
from qact.nn.layer import MODES, QAct
from qact.rank.layout import fold
from qact.statistics import rules
from qact.statistics.rules import Mixed, Rule
from qact.surgery.lending import RULE, lending, lent

PRIOR = 16.0  # samples that the running statistics of a BatchNorm count for


@contextmanager
def adapting(
    model: nn.Module, context: str = "batch", *, prior: float | None = None, norms: bool = True
) -> Iterator[nn.Module]:
    """Let ``model`` in ``eval()`` read the given context for a block; it leaves no trace.

    Every :class:`qact.QAct` switches to ``"running"``, ``"batch"`` or ``"mixed"``. With ``norms``,
    every BatchNorm that keeps running statistics does the same: ``"batch"`` normalises by the test
    batch, ``"mixed"`` by its statistics joined to the stored ones, which count as ``prior``
    samples (Schneider et al. 2020, arXiv 2006.16971). So the same call adapts a network that has
    no QAct at all. Blocks nest; the innermost one holds. Not for training: there every layer
    reads its batch anyway.

    The block is its thread's own: another thread that uses ``model`` meanwhile reads what the
    model, or a block of that thread, says. A thread that is started within the block is another
    one.

    Args:
        prior: samples that the stored context counts for in ``"mixed"``; None keeps each layer's
            own (16 for BatchNorm).

    Raises:
        ValueError: there is no such ``context``, or ``prior`` is no positive number.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 4), QAct(4))
        >>> _ = model(torch.randn(32, 3))  # training: the contexts follow
        >>> with adapting(model.eval(), context="batch"):
        ...     y = model(torch.randn(16, 3) * 5)
    """
    checks.choice("context", context, MODES)
    if prior is not None:
        checks.number("prior", prior, "a positive number of samples", 0)
    with lend(model, context, prior, rule_of(context, prior) if norms else None):
        yield model


def rule_of(context: str, prior: float | None = None) -> Rule:
    """The rule for BatchNorms that goes with a context of QAct layers."""
    known: dict[str, Rule] = {"running": rules.stored, "batch": rules.batch}
    return known.get(context) or Mixed(PRIOR if prior is None else prior)


@contextmanager
def lend(
    model: nn.Module,
    context: str,
    prior: float | None = None,
    rule: Rule | None = None,
    rate: float | None = None,
) -> Iterator[None]:
    """Let QAct layers read ``context``, and BatchNorms in ``eval()`` follow ``rule``, for a block.

    Args:
        model: whose layers borrow.
        context: ``"running"``, ``"batch"`` or ``"mixed"``.
        prior: of a ``"mixed"`` context; None for each layer's own.
        rule: see :mod:`qact.statistics.rules`; None leaves the norms alone.
        rate: stored contexts move by it towards each batch before that is read in them: an
            exponential moving average. Rules do so for the norms themselves.
    """
    with ExitStack() as undo:
        for module in model.modules():
            if isinstance(module, QAct):
                undo.enter_context(module.reading(context, prior))
                if rate is not None:
                    follow = partial(_follow, module, rate)
                    undo.enter_context(module.heard(follow))
            elif rule is not None and isinstance(module, AnyBatchNorm):
                undo.enter_context(lending(module, RULE, rule, _normalise))
        yield


@torch.no_grad()
def _follow(layer: QAct, rate: float, input: Tensor) -> None:
    layer.context.follow(eager.observe(fold(input.detach(), layer.dim), layer.rule), rate)


def _normalise(norm: Any, before: Callable[..., Tensor] | None, *args: Any, **named: Any) -> Tensor:
    """What ``norm.forward`` does, by the rule that this thread has lent.

    The class's own ``forward`` runs in every case, so subclasses that do more than normalise keep
    doing it. It runs on a twin of the norm that shares all but the two lent buffers: written into
    the norm itself, they would be seen by other threads.
    """
    rule = lent(norm, RULE)
    plain = before or partial(type(norm).forward, norm)
    if rule is None or norm.training or norm.running_mean is None:
        return plain(*args, **named)
    input = args[0] if args else named["input"]
    found = rule(norm, input)
    if found is None:
        return plain(*args, **named)
    old = norm.running_mean, norm.running_var
    if isinstance(found, Tensor):
        args, named = ((found, *args[1:]), named) if args else (args, named | {"input": found})
        # With mean 0 and variance 1 - eps the norm only scales and shifts.
        found = torch.zeros_like(old[0]), torch.full_like(old[1], 1 - norm.eps)
    new = (None if n is None else n.to(was.dtype) for n, was in zip(found, old, strict=True))
    buffers = dict(zip(("running_mean", "running_var"), new, strict=True))
    twin = object.__new__(type(norm))
    vars(twin).update(vars(norm), _buffers={**norm._buffers, **buffers})
    return type(norm).forward(twin, *args, **named)
