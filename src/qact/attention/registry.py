"""Forms of attention by name, each with its paper, its formula and what it can do."""

from __future__ import annotations

from dataclasses import dataclass

from qact import registry


@dataclass(frozen=True)
class Entry(registry.Entry):
    """What the registry knows of a form.

    Args:
        name: as in :func:`create`.
        make: class of a :class:`qact.attention.Form`.
        paper: where it comes from.
        formula: its weights, in one line.
        linear: its time and memory grow with the number of tokens, not with its square.
        causal: it has a causal form.
        rows: its weights sum to 1 in every row.
        input: it reads the tokens themselves beside queries, keys and values.
    """

    formula: str
    linear: bool = False
    causal: bool = True
    rows: bool = True
    input: bool = False


FORMS = registry.Registry("form of attention", Entry, room="qact.attention")
register = FORMS.register
entry = FORMS.__getitem__
names = FORMS.names
create = FORMS.create
