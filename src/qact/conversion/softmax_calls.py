"""A `forward` in which the call of softmax, or of torch's fused attention, is another."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

import torch
from torch.nn import functional as F

from qact.conversion.graft import Forward

SOFTMAX = (torch.softmax, F.softmax)
FUSED = F.scaled_dot_product_attention


class NotRewrittenError(ValueError):
    """An attention whose ``forward`` cannot be rewritten."""


def calls_attention(forward: Any, heads: bool) -> bool:
    """Whether a forward attends: by torch's fused function, or by softmax in a module of heads."""
    names = getattr(getattr(forward, "__code__", None), "co_names", ())
    return FUSED.__name__ in names or (heads and "softmax" in names)


def respelled(forward: Any, key: str) -> Forward:
    """The forward with ``self.KEY(scores)`` for softmax and ``self.KEY.attend(...)`` for the fused.

    Raises:
        NotRewrittenError: there is no source, it calls softmax more than once or along another
            dimension, or it cannot stand on its own.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(forward)))
    except (OSError, TypeError, SyntaxError) as error:
        raise NotRewrittenError("has a forward without a source") from error
    (definition,) = tree.body
    assert isinstance(definition, ast.FunctionDef)
    if forward.__code__.co_freevars or definition.decorator_list:
        raise NotRewrittenError("has a forward that reads names around it, as super() does")
    change = _Change(forward.__globals__, definition.args.args[0].arg, key)
    for part in ast.walk(definition):
        if isinstance(part, ast.arg):
            part.annotation = None  # its names may be there for type checkers alone
    definition.returns, definition.name = None, "forward"
    change.visit(definition)
    most = [_most(definition, calls) for calls in (change.softmax, change.fused)]
    if max(most) != 1:
        raise NotRewrittenError(f"calls softmax {most[0]} times, fused attention {most[1]} times")
    used = {node.id for node in ast.walk(definition) if isinstance(node, ast.Name)}
    names = {name: value for name, value in forward.__globals__.items() if name in used}
    return Forward(ast.unparse(ast.fix_missing_locations(definition)) + "\n", names)


class _Change(ast.NodeTransformer):
    """Exchanges the calls, and keeps what stands in their places."""

    def __init__(self, space: dict[str, Any], owner: str, key: str) -> None:
        self.space, self.target = space, f"{owner}.{key}"
        self.softmax: set[ast.AST] = set()
        self.fused: set[ast.AST] = set()

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Exchange this call, if it is one of the two."""
        self.generic_visit(node)
        what = self._called(node.func)
        if what is FUSED:
            self.fused.add(
                new := ast.Call(_name(f"{self.target}.attend"), node.args, node.keywords)
            )
            return new
        method = isinstance(node.func, ast.Attribute) and node.func.attr == "softmax"
        if not (method or any(what is known for known in SOFTMAX)):
            return node
        args, keywords = list(node.args), {k.arg: k.value for k in node.keywords}
        if what is None and isinstance(node.func, ast.Attribute):
            args.insert(0, node.func.value)  # a method of the scores
        scores = args[0] if args else keywords["input"]
        dim = args[1] if len(args) > 1 else keywords.get("dim")
        if dim is None or ast.unparse(dim) not in ("-1", "3"):
            raise NotRewrittenError("takes softmax along another dimension than the last")
        self.softmax.add(new := ast.Call(_name(self.target), [scores], []))
        return new

    def _called(self, func: ast.expr) -> Any:
        """What a dotted name stands for among the names that the forward reads, or None."""
        text = ast.unparse(func)
        first, *rest = text.split(".")
        if not all(part.isidentifier() for part in (first, *rest)) or first not in self.space:
            return None
        value = self.space[first]
        for part in rest:
            value = getattr(value, part, None)
        return value


def _most(node: ast.AST, calls: set[ast.AST]) -> int:
    """How many of ``calls`` one run passes at most: of two branches it takes one."""
    if isinstance(node, ast.If):
        branches = (sum(_most(part, calls) for part in body) for body in (node.body, node.orelse))
        return _most(node.test, calls) + max(branches)
    return (node in calls) + sum(_most(child, calls) for child in ast.iter_child_nodes(node))


def _name(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body
