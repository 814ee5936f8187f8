"""Formulas of one number compiled to a pass over a tensor, at little more than the cost of ReLU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from qact.kernels.cpu import lowering
from qact.kernels.cpu.frame import pack
from qact.kernels.cpu.generated import filled, load
from qact.kernels.cpu.pool import run

# Values that one thread works through at a time: sums for parameters are taken over so many.
BLOCK = 8192
LENGTH = 64  # values that share a channel's parameters, below which a row is not worth a loop
Formula = Callable[..., Any]

_MODULE = '''"""Written by qact.kernels.cpu.pointwise: a formula and its partial derivatives."""
from qact.kernels.cpu.elementary import *
from qact.kernels.cpu.frame import line, numbers, opened, plane
from qact.kernels.cpu.jit import Kernel
from qact.kernels.cpu.pool import share


@Kernel.strict
def forward(data):
    frame = opened(data)
    inputs, outputs, given = line(frame, 0, f4), line(frame, 1, f4), plane(frame, 2, f4)
    length = int(numbers(frame, 3)[0])
    first, last = share(frame, -(-inputs.size // length))
    for row in range(first, last):
        c = row % given.shape[0]
        {given}
        # Slices, since an index that starts at zero needs no test of its sign.
        start, stop = row * length, (row + 1) * length
        xs, ys = inputs[start:stop], outputs[start:stop]
        for i in range(xs.size):
            x = xs[i]
            {value}
            ys[i] = {output}


@Kernel.strict
def backward(data):
    frame = opened(data)
    inputs, outputs, given = line(frame, 0, f4), line(frame, 1, f4), plane(frame, 2, f4)
    grads, sums = line(frame, 3, f4), plane(frame, 4, f4)
    length = int(numbers(frame, 5)[0])
    first, last = share(frame, sums.shape[0])
    for row in range(first, last):
        c = row % given.shape[0]
        {given}
        start, stop = row * length, (row + 1) * length
        xs, gs, ys = inputs[start:stop], grads[start:stop], outputs[start:stop]
        {start}
        for i in range(xs.size):
            x, g = xs[i], gs[i]
            {partials}
            ys[i] = g * {slope}
            {sum}
        {keep}
'''


class Pointwise:
    """The compiled passes of one formula; ``trained`` are the parameters with a derivative."""

    def __init__(self, module: ModuleType, trained: list[int]) -> None:
        self.module, self.trained = module, trained

    def forward(self, input: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """The formula of every value; ``input`` is float32 and dense."""
        length, given = _rows(input, parameters)
        output = torch.empty_like(input)
        frame = pack([_flat(input), _flat(output), given], [length])
        run(self.module.forward, frame, -(-input.numel() // length), input.numel())
        return output

    def backward(
        self, input: Tensor, parameters: Sequence[Tensor], grad: Tensor
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The gradient of the input, and of every parameter; None for constants."""
        length, given = _rows(input, parameters)
        output = torch.empty_like(input)
        if grad.stride() != input.stride() or grad.dtype != input.dtype:
            grad = torch.empty_like(input).copy_(grad)
        sums = input.new_empty(-(-input.numel() // length), max(1, len(self.trained)))
        frame = pack([_flat(input), _flat(output), given, _flat(grad), sums], [length])
        run(self.module.backward, frame, len(sums), input.numel())
        totals = sums.view(-1, len(given), sums.shape[1]).sum(0, dtype=torch.float64)
        found: list[Tensor | None] = [None] * len(parameters)
        for column, k in enumerate(self.trained):
            total = totals[:, column]
            found[k] = total.sum() if parameters[k].numel() == 1 else total
        return output, found


def pointwise(
    value: Formula, partials: Formula, input: Tensor, parameters: Sequence[Tensor]
) -> Pointwise | None:
    """The compiled form of ``value(input, *parameters)``, given its ``partials``.

    None if there is none: an operation without a line in `qact.kernels.cpu.lowering`, or parameters
    that are neither of one element nor one for each channel of long rows.
    """
    if any(p.numel() != 1 and not _by_channel(input, p) for p in parameters):
        return None
    return _compiled(key(value), key(partials), len(parameters))


def key(formula: Formula) -> tuple[Any, ...]:
    """What tells formulas apart: a partial is what it calls and with what."""
    if isinstance(formula, partial):
        return formula.func, formula.args, tuple(sorted(formula.keywords.items()))
    return formula, (), ()


def called(key: tuple[Any, ...]) -> Formula:
    """The formula of a key."""
    function, arguments, named = key
    return partial(function, *arguments, **dict(named))


@lru_cache(maxsize=256)
def _compiled(value: tuple, partials: tuple, count: int) -> Pointwise | None:
    names = [f"p{k}" for k in range(count)]
    try:
        lines, (output,) = lowering.lower(called(value), ["x", *names])
        back, (slope, *others) = lowering.lower(called(partials), ["x", *names])
    except lowering.LoweringError:
        return None
    terms = {k: term for k, term in enumerate(others) if term}
    written = {
        "given": [f"{name} = given[c, {k}]" for k, name in enumerate(names)],
        "value": lines,
        "partials": back,
        "start": [f"s{k} = ZERO" for k in terms],
        "sum": [f"s{k} = plus(s{k}, g * {term})" for k, term in terms.items()],
        "keep": [f"sums[row, {column}] = s{k}" for column, k in enumerate(terms)],
    }
    module = load(filled(_MODULE, written, {"output": output, "slope": slope}))
    return Pointwise(module, list(terms))


def _flat(tensor: Tensor) -> Tensor:
    return tensor.as_strided((tensor.numel(),), (1,))


def _rows(input: Tensor, parameters: Sequence[Tensor]) -> tuple[int, Tensor]:
    """How long the rows are that share parameters, and the parameters, (channels, count)."""
    wide = [p.detach() for p in parameters]
    channels = [p for p in wide if p.numel() > 1]
    if not wide:
        return BLOCK, torch.zeros(1, 1)
    if not channels:
        return BLOCK, torch.stack([p.reshape(()) for p in wide])[None]
    count = channels[0].numel()
    length = math.prod(input.shape[input.dim() - channels[0].dim() + 1 :])
    return length, torch.stack([p.reshape(-1).expand(count) for p in wide], 1)


def _by_channel(input: Tensor, parameter: Tensor) -> bool:
    """Whether it has one value for each row of `LENGTH` or more neighbours."""
    at = input.dim() - parameter.dim()
    return (
        at >= 0
        and input.is_contiguous()
        and parameter.numel() == parameter.shape[0] == input.shape[at]
        and math.prod(input.shape[at + 1 :]) >= LENGTH
    )
