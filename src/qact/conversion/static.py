"""What can be known of a model without running it: which activations a forward calls, and dims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from qact._compat import AnyConv, AnyStatisticsNorm
from qact.conversion import functions
from qact.conversion.rewrite import UntraceableError, fixed, trace, working
from qact.conversion.sites import Event, Site, held, within
from qact.surgery import joined

LAST = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention)
FIRST = (AnyConv, AnyStatisticsNorm, nn.GroupNorm)


def events(
    owner: nn.Module, path: str, acts: set[nn.Module], chosen: Callable[[nn.Module, str], bool]
) -> list[Event]:
    """The activations that the forward of ``owner`` calls, in order, read from its trace.

    Raises:
        ValueError: torch.fx cannot follow it, and an activation in it is wanted.
    """
    kind = type(owner)
    if kind.forward in (nn.Sequential.forward, nn.Module.forward):
        return [Event(m) for m in owner._modules.values() if m in acts]
    if kind.__module__.startswith("torch.nn."):
        return _functions_held(owner)
    words = functions.mentioned(kind)
    mine = [
        (joined(path, name), act)
        for name, act in owner.named_modules(remove_duplicate=False)
        if act in acts and owner.get_submodule(name.rpartition(".")[0]) in within(owner)
    ]
    if not words and not mine and not _functions_held(owner):
        return []
    try:
        nodes = working(trace(owner, fixed(owner, None), owner.training), owner)
    except UntraceableError as error:
        _refuse(owner, path, mine, words, chosen, error)
        return []
    found = [(node, what) for node, what in nodes if isinstance(what, str) or what in acts]
    return [
        Event(functions.stand_in(what), what, hint=hint(node, owner))
        if isinstance(what, str)
        else Event(what, hint=hint(node, owner))
        for node, what in found
    ]


def _functions_held(owner: nn.Module) -> list[Event]:
    names = functions.FUNCTIONS
    return [Event(functions.stand_in(n), n) for n in names if len(held(owner, n)) == 1]


def _refuse(
    owner: nn.Module,
    path: str,
    mine: list[tuple[str, nn.Module]],
    words: frozenset[str],
    chosen: Callable[[nn.Module, str], bool],
    error: Exception,
) -> None:
    """Raise if something is wanted of a forward that cannot be followed."""
    perhaps = [(joined(path, word), functions.stand_in(word)) for word in sorted(words)]
    wanted = [name for name, module in (*mine, *perhaps) if chosen(module, name)]
    if wanted:
        raise ValueError(
            f"how often {path or 'the model'!r} ({type(owner).__name__}) calls {wanted[0]!r} "
            f"cannot be read from its forward ({error}): give example_inputs"
        ) from error


def dim(site: Site) -> int:
    """The channel dimension at a site that no pass has seen: that of the layer registered nearest.

    -1 next to Linear or LayerNorm, 1 next to a convolution or a norm of channels, else 1. The
    layers of the owner count, those before the site first.
    """
    before = _until(site)
    behind = [m for m in site.owner.modules() if m not in before]
    for module in (*reversed(before), *behind):
        found = written_by(module)
        if found is not None:
            return found
    return 1


def written_by(module: nn.Module) -> int | None:
    """Where a layer with weights puts its features; None for other modules."""
    return -1 if isinstance(module, LAST) else 1 if isinstance(module, FIRST) else None


def hint(node: Any, owner: nn.Module) -> int | None:
    """Where the features stand in the input of a node: as the layer before it in the graph put."""
    while node.args and isinstance(node.args[0], fx.Node):
        node = node.args[0]
        if node.op == "call_module":
            inside = [*owner.get_submodule(str(node.target)).modules()]
            found = (written_by(module) for module in reversed(inside))
            told = next((dim for dim in found if dim is not None), None)
            if told is not None:
                return told
        elif node.target in (F.linear, "permute", "transpose", "movedim"):
            return -1 if node.target is F.linear else None
    return None


def _until(site: Site) -> list[nn.Module]:
    """The layers of the owner that are registered before the site; all of them for a call."""
    found: list[nn.Module] = []
    for key, child in site.owner._modules.items():
        if key == site.key:
            break
        found += [] if child is None else child.modules()
    return found
