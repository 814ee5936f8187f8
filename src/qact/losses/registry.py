"""Losses by name, each with its paper and what it is taken of."""

from __future__ import annotations

from dataclasses import dataclass

from qact import registry


@dataclass(frozen=True)
class Entry(registry.Entry):
    """What the registry knows of a loss.

    Args:
        name: as in :func:`create`.
        make: class of a module ``loss(of, labels)``, whose options all have defaults.
        paper: where it comes from, with the equation.
        of: ``"embeddings"`` (N, D) or ``"logits"`` (N, C).
    """

    of: str = "embeddings"


LOSSES = registry.Registry("loss", Entry, room="qact.losses")
register = LOSSES.register
entry = LOSSES.__getitem__
names = LOSSES.names
create = LOSSES.create
