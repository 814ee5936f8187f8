"""`where`: a name, pattern, container, type or predicate, or a list of these, as one question.

One grammar for everything that chooses parts of a model: :func:`qact.convert` among activations,
:func:`qact.record` and :func:`qact.recalibrated` among norms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

Kind = Callable[[nn.Module], Any]
Chosen = Callable[[nn.Module, str], bool]
Where = str | type[nn.Module] | Chosen | Iterable["Where"] | None

FORMS = (
    "a name, a pattern, the name of a module around some, a module class, a predicate "
    "(module, name) -> bool, or a list of these"
)


def parse(where: Any, default: Kind) -> Chosen:
    """Return the question ``(module, name) -> bool`` that a user's word means.

    Args:
        where: see :data:`FORMS`; None asks ``default`` of the module alone.

    Raises:
        TypeError: ``where`` is none of the known forms; later, a predicate returns no bool.
        ValueError: ``where`` is empty; later, a predicate raises.

    Example:
        >>> first = parse(["0", nn.Tanh], default=lambda module: True)
        >>> [first(nn.ReLU(), "0"), first(nn.ReLU(), "0.act"), first(nn.ReLU(), "1")]
        [True, True, False]
    """
    if where is None:
        return lambda module, name: default(module)
    questions = [_parsed(part) for part in parts(where)]
    return lambda module, name: any(question(module, name) for question in questions)


def select(model: nn.Module, where: Any, *kinds: Kind) -> list[tuple[str, nn.Module]]:
    """Name and module of what ``where`` chooses in ``model``, in the order of ``named_modules``.

    Of all that a name or a pattern finds, those of the first of ``kinds`` are taken that is there:
    for a caller who wants norms, and else layers with weights, ``"layer4"`` is every norm in
    ``layer4``, and ``"layer4.0.conv1"`` is that convolution. None is the first kind, everywhere.
    For a caller who wants no kind, a name is that module alone, and a pattern what it matches.

    Raises:
        TypeError, ValueError: as :func:`parse`.
    """
    every = dict(model.named_modules())
    if where is None:
        return [(name, module) for name, module in every.items() if kinds[0](module)]
    taken: set[str] = set()
    for part in parts(where):
        question = _parsed(part)
        found = [name for name, module in every.items() if question(module, name)]
        if isinstance(part, str) and not kinds:
            found = [name for name in found if fnmatchcase(name, part)]
        elif isinstance(part, str):
            narrower = ([n for n in found if kind(every[n])] for kind in kinds)
            found = next(filter(None, narrower), found)
        taken.update(found)
    return [(name, module) for name, module in every.items() if name in taken]


def parts(where: Any) -> Iterator[Any]:
    """The names, patterns, classes and predicates in ``where``, lists in lists opened.

    Raises:
        TypeError, ValueError: one of them is none of these, or is empty.
    """
    if isinstance(where, tuple | list | set | frozenset) and where:
        for part in where:
            yield from parts(part)
    elif (isinstance(where, str) and where) or _is_class(where) or _is_predicate(where):
        yield where
    else:
        empty = isinstance(where, str | tuple | list | set | frozenset)
        raise (ValueError if empty else TypeError)(f"where={where!r} must be {FORMS}")


def classes(where: Any) -> tuple[type[nn.Module], ...]:
    """The module classes that ``where`` names: they may be anything, not activations alone."""
    return () if where is None else tuple(part for part in parts(where) if _is_class(part))


def named(where: str, name: str) -> bool:
    """Whether ``where`` is ``name``, a pattern of it, or the name of a module around it.

    >>> [named(where, "layer4.0.bn1") for where in ("layer4", "*.bn1", "layer4.0", "layer")]
    [True, True, True, False]
    """
    return fnmatchcase(name, where) or name.startswith(f"{where}.")


def _is_class(where: Any) -> bool:
    return isinstance(where, type) and issubclass(where, nn.Module)


def _is_predicate(where: Any) -> bool:
    return callable(where) and not isinstance(where, type | nn.Module)


def _parsed(where: Any) -> Chosen:
    if isinstance(where, str):
        return lambda module, name: named(where, name)
    if _is_class(where):
        return lambda module, name: isinstance(module, where)
    return lambda module, name: _asked(where, module, name)


def _asked(predicate: Any, module: nn.Module, name: str) -> bool:
    try:
        answer = predicate(module, name)
    except Exception as error:
        raise ValueError(
            f"the predicate where raised {type(error).__name__}: {error} for {name!r} "
            f"({type(module).__name__}); it is called as where(module, name)"
        ) from error
    if not isinstance(answer, bool):
        raise TypeError(
            f"the predicate where returned {answer!r} for {name!r} ({type(module).__name__}); "
            "it must return True or False"
        )
    return answer
