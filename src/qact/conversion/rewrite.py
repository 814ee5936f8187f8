"""A `forward` traced by torch.fx, in which every use of an activation is a layer of its own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn

from qact.conversion import functions
from qact.conversion.dryrun import PLAIN, signature
from qact.conversion.graft import Forward, Grafted


class UntraceableError(ValueError):
    """A ``forward`` that torch.fx cannot follow."""


class _Tracer(fx.Tracer):
    """Every child is a leaf; a value that was computed on the way is not frozen into the graph."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Stop at every module."""
        return True

    def create_arg(self, a: Any) -> Any:
        """Refuse tensors that the model does not own."""
        if isinstance(a, Tensor) and not any(a is own for own in self._owned()):
            raise UntraceableError("it computes with a tensor that would be frozen at its value")
        return super().create_arg(a)

    def _owned(self) -> Iterator[Tensor]:
        yield from self.root.parameters()
        yield from self.root.buffers()


def fixed(owner: nn.Module, seen: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments that a trace takes as constants: those seen in the dry run, else the defaults."""
    known = signature(type(owner)).parameters.values()
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in known):
        return {}
    if seen is not None:
        return {p.name: seen[p.name] for p in known if p.name in seen}
    return {p.name: p.default for p in known if isinstance(p.default, PLAIN)}


def trace(owner: nn.Module, constants: dict[str, Any], training: bool) -> fx.Graph:
    """The graph of ``owner.forward`` in one mode; the owner is only read.

    Raises:
        UntraceableError: torch.fx cannot follow it.
    """
    # The twin shares everything but the flag and, with constants, the signature.
    kind: Any = type(owner)
    graft = kind.forwards if issubclass(kind, Grafted) else None
    forward = kind.forward if graft is None else graft[not training].function
    if constants:
        forward = _narrowed(forward, signature(kind), constants)
    kind = type(kind.__name__, (kind,), {"forward": forward})
    twin = object.__new__(kind)
    twin.__dict__.update(owner.__dict__)
    twin.__dict__["training"] = training
    try:
        return _Tracer().trace(twin)
    except UntraceableError:
        raise
    except Exception as error:
        raise UntraceableError(f"{type(error).__name__}: {error}".splitlines()[0]) from error


def _narrowed(forward: Any, known: inspect.Signature, constants: dict[str, Any]) -> Any:
    names = [n for n in known.parameters if n not in constants]
    given = "".join(f", {n}={n}" for n in names[1:])
    source = f"def forward({', '.join(names)}):\n    return _f({names[0]}{given}, **_constants)\n"
    space: dict[str, Any] = {"_f": forward, "_constants": constants}
    exec(source, space)
    return space["forward"]


def working(graph: fx.Graph, owner: nn.Module) -> list[tuple[fx.Node, Any]]:
    """The nodes at which an activation works, in order, with the module or the function's name."""
    found: list[tuple[fx.Node, Any]] = []
    for node in graph.nodes:
        if node.op == "call_module":
            found.append((node, owner.get_submodule(str(node.target))))
        elif node.op in ("call_function", "call_method") and functions.spelled(node.target):
            args = tuple(a for a in node.args[1:])
            if functions.stand_in(_name(node), args, dict(node.kwargs)) is not None:
                found.append((node, _name(node)))
    return found


def _name(node: fx.Node) -> str:
    name = functions.spelled(node.target)
    assert name is not None
    return name


def rewritten(
    owner: nn.Module, constants: dict[str, Any], order: list[Any], keys: list[str | None]
) -> tuple[Forward, Forward]:
    """``forward`` in training and in ``eval()``, with the layer ``keys[i]`` at activation ``i``.

    ``order`` has the module or the function's name of each activation, as the dry run met them;
    where a key is None the activation stays.

    Raises:
        UntraceableError: the trace does not meet the same activations in the same order.
    """
    sources = []
    for training in (True, False):
        graph = trace(owner, constants, training)
        nodes = [(n, w) for n, w in working(graph, owner) if isinstance(w, str) or w in order]
        if [w for _, w in nodes] != order:
            raise UntraceableError(
                f"traced {'in training' if training else 'in eval()'}, it calls "
                f"{[_shown(w) for _, w in nodes]}; the dry run saw {[_shown(w) for w in order]}"
            )
        for (node, what), key in zip(nodes, keys, strict=True):
            if key is not None:
                _put(graph, node, key, _inplace(node, what))
        graph.lint()
        sources.append(_forward(graph, type(owner), constants))
    return sources[0], sources[1]


def _shown(what: Any) -> str:
    return what if isinstance(what, str) else type(what).__name__


def _inplace(node: fx.Node, what: Any) -> bool:
    if isinstance(what, str):
        return functions.overwrites(node.target, tuple(node.args[1:]), dict(node.kwargs))
    return bool(getattr(what, "inplace", False))


def _put(graph: fx.Graph, node: fx.Node, key: str, inplace: bool) -> None:
    """Call the layer ``key`` where ``node`` stood; readers of an overwritten input read it too."""
    source: Any = node.args[0] if node.args else next(iter(node.kwargs.values()))
    with graph.inserting_before(node):
        made = graph.call_module(key, (source,))
    if inplace and isinstance(source, fx.Node):
        place = {other: i for i, other in enumerate(graph.nodes)}
        for user in list(source.users):
            if place[user] > place[node]:
                user.replace_input_with(source, made)
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _forward(graph: fx.Graph, kind: type[nn.Module], constants: dict[str, Any]) -> Forward:
    code = graph.python_code("self")
    source = code.src.replace("def forward(", "def _traced(", 1)
    known = signature(kind).parameters.values()
    if not constants:
        return Forward(source + "\nforward = _traced\n", code.globals)
    written = [p.name + _default(p) for p in known]
    checks = "".join(_check(kind, name, value) for name, value in constants.items())
    rest = ", ".join(p.name for p in known if p.name not in constants)
    body = f"\ndef forward({', '.join(written)}):\n{checks}    return _traced({rest})\n"
    return Forward(source + body, code.globals)


def _default(parameter: inspect.Parameter) -> str:
    return f"={parameter.default!r}" if isinstance(parameter.default, PLAIN) else ""


def _check(kind: type[nn.Module], name: str, value: Any) -> str:
    wrong = f"{name} is not None" if value is None else f"{name} != {value!r}"
    text = f"{kind.__name__} was converted with {name}={value!r} and knows no other value"
    return f"    if {wrong}:\n        raise ValueError({text!r})\n"
