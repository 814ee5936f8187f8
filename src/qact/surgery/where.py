"""`where`: a name, a pattern, a type, several of these, or a predicate, as one question."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from qact.conversion import kinds

Chosen = Callable[[nn.Module, str], bool]


def parse(where: Any) -> Chosen:
    """The question ``(module, name) -> bool`` that a user's word means.

    Raises:
        TypeError: ``where`` is none of the known forms; later, a predicate returns no bool.
        ValueError: ``where`` is empty; later, a predicate raises.
    """
    if where is None:
        return lambda module, name: kinds.is_hidden(module)
    if isinstance(where, str) and where:
        return lambda module, name: _named(where, name)
    if isinstance(where, type) and issubclass(where, nn.Module):
        return lambda module, name: isinstance(module, where)
    if isinstance(where, tuple | list | set | frozenset) and where:
        parts = [parse(part) for part in where]
        return lambda module, name: any(part(module, name) for part in parts)
    if callable(where) and not isinstance(where, type | nn.Module):
        return lambda module, name: _asked(where, module, name)
    raise (ValueError if where in ("", (), [], set()) else TypeError)(
        f"where={where!r} must be a name, a pattern, a module class, a tuple of these, "
        "or a predicate (module, name) -> bool"
    )


def classes(where: Any) -> tuple[type[nn.Module], ...]:
    """The module classes that ``where`` names: they may be anything, not activations alone."""
    if isinstance(where, type) and issubclass(where, nn.Module):
        return (where,)
    if isinstance(where, Iterable) and not isinstance(where, str):
        return tuple(kind for part in where for kind in classes(part))
    return ()


def names(where: Any) -> tuple[str, ...]:
    """The names and patterns in ``where``."""
    if isinstance(where, str):
        return (where,)
    if isinstance(where, Iterable) and not isinstance(where, type | nn.Module):
        return tuple(name for part in where for name in names(part))
    return ()


def _named(where: str, name: str) -> bool:
    """A pattern, the name itself, or that of a module around it."""
    return fnmatchcase(name, where) or name.startswith(f"{where}.")


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
