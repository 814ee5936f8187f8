"""From a formula in PyTorch to lines of arithmetic on one float32, which Numba compiles.

The formula is called once with stand-ins that write down each operation (`torch.fx`). Every
operation that is known here becomes one line; a formula with any other is left to PyTorch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

# What stands for an operation, by function or by name of method; {0} is its first argument.
INFIX = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.and_: "&",
    operator.gt: ">",
    operator.ge: ">=",
    operator.lt: "<",
    operator.le: "<=",
}
CALLS: dict[Any, str] = {
    operator.neg: "-{0}",
    operator.abs: "abs({0})",
    torch.exp: "exp({0})",
    torch.log: "log({0})",
    torch.sigmoid: "sigmoid({0})",
    torch.tanh: "tanh({0})",
    torch.atan: "atan({0})",
    torch.erfc: "erfc({0})",
    torch.relu: "({0} if not {0} < ZERO else ZERO)",
    torch.square: "({0} * {0})",
    torch.maximum: "({1} if {0} < {1} else {0})",
    torch.where: "({1} if {0} else {2})",
    torch.ones_like: "ONE",
    torch.zeros_like: "ZERO",
    F.gelu: "(HALF * {0} * erfc(f4(-0.7071067811865476) * {0}))",
    F.silu: "({0} * sigmoid({0}))",
    F.softplus: "softplus({0})",
    F.softshrink: "({0} - clamp({0}, -{1}, {1}))",
    "abs": "abs({0})",
    "sign": "sign({0})",
    "square": "({0} * {0})",
    "clamp_min": "({1} if {0} < {1} else {0})",
    "clamp": "clamp({0}, {1}, {2})",
    "expand_as": "{0}",
    "to": "f4({0})",
}
CALLS |= {function: f"({{0}} {sign} {{1}})" for function, sign in INFIX.items()}


class LoweringError(Exception):
    """The formula has an operation that has no line here."""


def lower(formula: Callable[..., Any], arguments: list[str]) -> tuple[list[str], list[str]]:
    """The lines of a formula of these arguments, and the names of its results.

    A result that is None has no name.

    Example:
        >>> lower(lambda x, a: (a * x).clamp_min(0.0), ["x", "a"])
        (['t0 = (a * x)', 't1 = (f4(0.0) if t0 < f4(0.0) else t0)'], ['t1'])
    """
    graph = fx.Graph()
    names = {graph.placeholder(f"argument_{name}"): name for name in arguments}
    try:
        tracer = fx.proxy.GraphAppendingTracer(graph)
        found = formula(*(fx.Proxy(node, tracer) for node in names))
    except (TypeError, fx.proxy.TraceError) as error:
        raise LoweringError(f"the formula cannot be traced: {error}") from error
    found = found if isinstance(found, tuple | list) else (found,)
    lines: list[str] = []
    for node in graph.nodes:
        if node in names or node.target is getattr:
            continue  # an attribute is a dtype, which is float32 here
        template = CALLS.get(node.target)
        if template is None or any(node.kwargs.values()):
            raise LoweringError(f"no line stands for {node.format_node()}")
        values = [_written(value, names) for value in node.args]
        names[node] = f"t{len(lines)}"
        lines.append(f"{names[node]} = {template.format(*values)}")
    return lines, [_written(getattr(value, "node", value), names) for value in found]


def _written(value: Any, names: dict[fx.Node, str]) -> str:
    if value is None:
        return ""
    if isinstance(value, fx.Node):
        return names.get(value, "")
    if isinstance(value, int | float):
        return f"f4({float(value)!r})"
    raise LoweringError(f"{value!r} is no number")
