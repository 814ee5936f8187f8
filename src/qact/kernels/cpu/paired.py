"""Formulas of two numbers, which stand in two halves of a tensor, compiled to one pass."""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

from torch import Tensor

from qact.kernels.cpu import lowering
from qact.kernels.cpu.frame import pack
from qact.kernels.cpu.generated import filled, load
from qact.kernels.cpu.pointwise import Formula, called, key
from qact.kernels.cpu.pool import run

_MODULE = '''"""Written by qact.kernels.cpu.paired: a formula and its partial derivatives."""
from qact.kernels.cpu.elementary import *
from qact.kernels.cpu.frame import cube, opened, plane
from qact.kernels.cpu.jit import Kernel
from qact.kernels.cpu.pool import share


@Kernel.strict
def forward(data):
    frame = opened(data)
    inputs, outputs = cube(frame, 0), plane(frame, 1, f4)
    first, last = share(frame, inputs.shape[0])
    for row in range(first, last):
        xs, ws, ys = inputs[row, 0], inputs[row, 1], outputs[row]
        for i in range(ys.size):
            x, w = xs[i], ws[i]
            {value}
            ys[i] = {output}


@Kernel.strict
def backward(data):
    frame = opened(data)
    inputs, outputs, grads = cube(frame, 0), cube(frame, 1), plane(frame, 2, f4)
    first, last = share(frame, inputs.shape[0])
    for row in range(first, last):
        xs, ws, gs = inputs[row, 0], inputs[row, 1], grads[row]
        us, vs = outputs[row, 0], outputs[row, 1]
        for i in range(gs.size):
            x, w, g = xs[i], ws[i], gs[i]
            {partials}
            us[i] = g * {by_x}
            vs[i] = g * {by_w}
'''


class Paired:
    """The compiled passes of one formula, from (R, 2, L) float32, contiguous, to (R, L)."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def forward(self, input: Tensor) -> Tensor:
        """The formula of every pair."""
        output = input.new_empty(input.shape[0], input.shape[2])
        run(self.module.forward, pack([input, output], []), len(input), input.numel())
        return output

    def backward(self, input: Tensor, grad: Tensor) -> Tensor:
        """The gradient of both halves, (R, 2, L)."""
        output, grad = input.new_empty(input.shape), grad.contiguous()
        frame = pack([input, output, grad], [])
        run(self.module.backward, frame, len(input), input.numel())
        return output


def paired(value: Formula, partials: Formula) -> Paired:
    """The compiled form of ``value(x, w)``, given its two ``partials``.

    Raises:
        qact.kernels.cpu.lowering.LoweringError: an operation has no line.
    """
    return _compiled(key(value), key(partials))


@lru_cache(maxsize=64)
def _compiled(value: tuple, partials: tuple) -> Paired:
    lines, (output,) = lowering.lower(called(value), ["x", "w"])
    back, (by_x, by_w) = lowering.lower(called(partials), ["x", "w"])
    words = {"output": output, "by_x": by_x, "by_w": by_w}
    return Paired(load(filled(_MODULE, {"value": lines, "partials": back}, words)))
