"""Things by name: one registry and one refusal for activations, methods, corruptions, losses, ...

A room keeps one :class:`Registry`. Entries enter it where they are defined, by a decorator that
names the paper, and the room's modules are imported at the first look-up: a new entry is one new
file, and no list has to be told of it.
"""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, dataclass, fields
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any, Generic, TypeVar

from qact import checks
from qact.locks import Lock

Made = TypeVar("Made", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """What a registry knows of everything in it; rooms add facts of their own.

    Args:
        name: what users call it.
        make: the class or function behind the name.
        paper: where it comes from.
    """

    name: str
    make: Callable[..., Any]
    paper: str

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call what is behind the name."""
        return self.make(*args, **options)


@dataclass(frozen=True)
class FormulaEntry(Entry):
    """An entry that is a function of its room.

    Args:
        formula: the function, in one line.
        family: the file it stands in; by default the module that defines it.
    """

    formula: str
    family: str = ""

    def __post_init__(self) -> None:
        where = self.family or self.make.__module__.rpartition(".")[2]
        object.__setattr__(self, "family", where)  # the way to set what is frozen


E = TypeVar("E", bound=Entry)


class Registry(Generic[E]):
    """Entries by name; names are unique, sorted when listed, and every entry names its paper.

    A room hands on ``register``, ``entry`` (``registry[name]``), ``names`` and ``create`` (look up
    and call), so that every room has the same four verbs.

    Args:
        kind: what an entry is, in error messages: ``"activation"``.
        entry: the class of its entries, :class:`Entry` or derived from it.
        room: package whose modules register themselves; imported at the first look-up.
        error: class of the errors for names, derived from ValueError.

    Example:
        >>> optimizers = Registry("optimizer", Entry)
        >>> @optimizers.register("sgd", paper="Robbins and Monro 1951")
        ... def sgd(): ...
        >>> optimizers["sdg"]
        Traceback (most recent call last):
        ValueError: unknown optimizer 'sdg'; did you mean 'sgd'? known: sgd
        >>> optimizers.names("s*")
        ['sgd']
    """

    def __init__(
        self,
        kind: str,
        entry: type[E],
        *,
        room: str | None = None,
        error: type[ValueError] = ValueError,
    ) -> None:
        self.kind = kind
        self.entry = entry
        self.error = error
        self._room = room
        self._entries: dict[str, E] = {}
        self._lock = Lock()  # two threads may look up first

    def register(self, name: str, **facts: Any) -> Callable[[Made], Made]:
        """Return a decorator that enters a class or function as ``name``, and hands it back.

        Raises:
            ValueError: the name is taken or empty, or a fact that has no default, as ``paper``, is.
            TypeError: there is no such fact.
        """
        self._check(name, facts)

        def enter(make: Made) -> Made:
            self.add(name, make, **facts)
            return make

        return enter

    def add(self, name: str, make: Callable[..., Any], **facts: Any) -> E:
        """Enter ``make`` as ``name``; see :meth:`register`."""
        # The room's own entries come first: a stranger who takes one of their names is refused here
        # and now, and not the room when it is imported.
        if self._room and make.__module__.partition(".")[0] != self._room.partition(".")[0]:
            self._known()
        self._check(name, facts)
        self._entries[name] = self.entry(name, make, **facts)
        return self._entries[name]

    def remove(self, name: str) -> E:
        """Take an entry out again, as a test does with what it has registered."""
        found = self[name]
        del self._entries[name]
        return found

    def __getitem__(self, name: str) -> E:
        known = self._known()
        if not isinstance(name, str) or name not in known:
            raise unknown(self.kind, name, sorted(known), error=self.error)
        return known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._known())

    def create(self, name: str, *args: Any, **options: Any) -> Any:
        """Call what ``name`` stands for with the arguments that follow it, and return the result.

        Raises:
            ValueError: the name is unknown.
            TypeError: it does not take these arguments.
        """
        return self[name](*args, **options)

    def names(self, pattern: str = "*", **facts: Any) -> list[str]:
        """Return the names that match a shell pattern, sorted.

        Args:
            pattern: such as ``"*elu"``.
            facts: facts of the entries, and the values that they must have.
        """
        for fact in facts:
            if not hasattr(self.entry, fact) and fact not in self._facts():
                raise self._no_fact(fact, self.error)
        return sorted(
            name
            for name, found in self._known().items()
            if fnmatchcase(name, pattern) and all(getattr(found, k) == v for k, v in facts.items())
        )

    def _no_fact(self, fact: str, error: type[Exception]) -> Exception:
        return error(f"an entry has no field {fact!r}; it has {', '.join(self._facts())}")

    def _facts(self) -> list[str]:
        return [field.name for field in fields(self.entry)]

    def _check(self, name: str, facts: dict[str, Any]) -> None:
        if not isinstance(name, str) or not name:
            raise self.error(f"name={name!r} must be a name for {_article(self.kind)}")
        if name in self._entries:
            raise self.error(f"{_article(self.kind)} named {name!r} is registered already")
        for fact in facts:
            if fact not in self._facts():
                raise self._no_fact(fact, TypeError)
        for field in fields(self.entry)[2:]:
            if field.default is MISSING and not facts.get(field.name):
                got = facts.get(field.name)
                raise self.error(f"{name!r} must name its {field.name}, got {got!r}")

    def _known(self) -> dict[str, E]:
        """The entries, after the modules of the room have made theirs."""
        with self._lock:
            if self._room is not None:
                room, self._room = self._room, None
                try:
                    for module in pkgutil.iter_modules(import_module(room).__path__):
                        import_module(f"{room}.{module.name}")
                except BaseException:
                    self._room = room  # an interrupted import is begun again
                    raise
        return self._entries


def unknown(
    what: str,
    name: object,
    known: Iterable[str],
    which: str = "",
    error: type[ValueError] = ValueError,
) -> ValueError:
    """Return the error for a name that is not among ``known``, with the closest ones first.

    Example:
        >>> unknown("corruption", "foog", ["fog", "snow"])
        ValueError("unknown corruption 'foog'; did you mean 'fog'? known: fog, snow")
    """
    known = list(known)
    close = difflib.get_close_matches(str(name)[:100], known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    tail = f" {which}" if which else ""
    return error(f"unknown {what} {checks.shown(name)}; {hint}known{tail}: {', '.join(known)}")


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
