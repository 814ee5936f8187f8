"""What can be known of a model without running it: which activations a forward calls, and dims."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import CodeType, FunctionType

from torch import nn

from qact.convert import kinds
from qact.convert.rewrite import Untraceable, fixed, trace, working
from qact.convert.sites import Event, Site, held, joined, within

LAST = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention)
FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)


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
    words = mentioned(kind)
    mine = [
        (joined(path, name), act)
        for name, act in owner.named_modules(remove_duplicate=False)
        if act in acts and owner.get_submodule(name.rpartition(".")[0]) in within(owner)
    ]
    if not words and not mine and not _functions_held(owner):
        return []
    try:
        nodes = working(trace(owner, fixed(owner, None), owner.training), owner)
    except Untraceable as error:
        _refuse(owner, path, mine, words, chosen, error)
        return []
    return [
        Event(what) if isinstance(what, nn.Module) else Event(kinds.stand_in(what), what)
        for _, what in nodes
        if isinstance(what, str) or what in acts
    ]


def _functions_held(owner: nn.Module) -> list[Event]:
    return [Event(kinds.stand_in(n), n) for n in kinds.FUNCTIONS if len(held(owner, n)) == 1]


def _refuse(
    owner: nn.Module,
    path: str,
    mine: list[tuple[str, nn.Module]],
    words: set[str],
    chosen: Callable[[nn.Module, str], bool],
    error: Exception,
) -> None:
    """Raise if something is wanted of a forward that cannot be followed."""
    perhaps = [(joined(path, word), kinds.stand_in(word)) for word in sorted(words)]
    wanted = [name for name, module in (*mine, *perhaps) if chosen(module, name)]
    if wanted:
        raise ValueError(
            f"how often {path or 'the model'!r} ({type(owner).__name__}) calls {wanted[0]!r} "
            f"cannot be read from its forward ({error}): give example_inputs"
        ) from error


def mentioned(kind: type[nn.Module]) -> set[str]:
    """The names of functions in `kinds.FUNCTIONS` that the methods of a class mention."""
    found: set[str] = set()
    for base in kind.__mro__:
        if base is nn.Module:
            break
        for name, method in vars(base).items():
            if isinstance(method, FunctionType) and name != "__init__":
                found |= set(_words(method.__code__))
    return {word.removesuffix("_") for word in found} & set(kinds.FUNCTIONS)


def _words(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _words(constant)


def dim(site: Site) -> int:
    """The channel dimension at a site that no pass has seen: that of the layer registered nearest.

    -1 next to Linear or LayerNorm, 1 next to a convolution or a norm of channels, else 1. The
    layers of the owner count, those before the site first.
    """
    before = [m for m in _until(site)]
    behind = [m for m in site.owner.modules() if m not in before]
    for module in (*reversed(before), *behind):
        if isinstance(module, LAST) or isinstance(module, FIRST):
            return -1 if isinstance(module, LAST) else 1
    return 1


def _until(site: Site) -> list[nn.Module]:
    """The layers of the owner that are registered before the site; all of them for a call."""
    found: list[nn.Module] = []
    for key, child in site.owner._modules.items():
        if key == site.key:
            break
        found += [] if child is None else child.modules()
    return found
