"""Scores by name, each with its paper, what it reads, and whether a stored context will do."""

from __future__ import annotations

from dataclasses import dataclass

from qact import registry


@dataclass(frozen=True)
class Entry(registry.Entry):
    """What the registry knows of a score.

    Args:
        name: as in :func:`create`.
        make: class derived from :class:`qact.scores.Score`, whose options all have defaults.
        paper: where it comes from, with the equation.
    """

    @property
    def reads(self) -> tuple[str, ...]:
        """``"logits"``, ``"features"``, ``"labels"`` (while fitted) and ``"inputs"``."""
        return self.make.reads  # type: ignore[attr-defined]

    @property
    def from_context(self) -> bool:
        """Whether a stored context of the features is enough to fit it."""
        return self.make.from_context  # type: ignore[attr-defined]

    @property
    def one_pass(self) -> bool:
        """Whether it is computed of the outputs of one forward pass alone."""
        return "inputs" not in self.reads


SCORES = registry.Registry("score", Entry, room="qact.scores")
register = SCORES.register
entry = SCORES.__getitem__
names = SCORES.names
create = SCORES.create
