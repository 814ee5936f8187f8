"""`Panel`: several scores, fitted in one pass over the data and read off one forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from qact.scores.outputs import Outputs, Reader
from qact.scores.registry import SCORES
from qact.scores.score import Score


class Panel(nn.Module):
    """Scores by name, fitted and computed together.

    Args:
        scores: names of :func:`qact.scores.names`, or scores by a name of one's own; None is all
            that one forward pass is enough for.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> panel = Panel(["msp", "energy", "react"]).fit(model, [torch.randn(99, 4)])
        >>> sorted(panel.score(torch.randn(2, 4)))
        ['energy', 'msp', 'react']
    """

    reader: Reader
    scores: Mapping[str, Score]  # an nn.ModuleDict

    def __init__(self, scores: Iterable[str] | Mapping[str, Score] | None = None) -> None:
        super().__init__()
        if isinstance(scores, str):
            raise TypeError(f"scores={scores!r} must be a list of names, as [{scores!r}]")
        if scores is None:
            scores = [name for name in SCORES if SCORES[name].one_pass]
        if not isinstance(scores, Mapping):
            scores = {name: SCORES.create(name) for name in scores}
        if not scores:
            raise ValueError("a panel needs at least one score")
        self.scores = nn.ModuleDict(scores)  # type: ignore[assignment]

    def fit(
        self, model: nn.Module, data: Any = None, *, head: str | nn.Linear | None = None
    ) -> Panel:
        """Fit all scores in one pass; arguments and errors as :meth:`qact.scores.Score.fit`."""
        reader = self.__dict__["reader"] = Reader(model, head)
        found = reader.gather(data)
        for name, score in self.scores.items():
            try:
                score.learn(reader, found)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return self

    def bind(self, model: nn.Module, *, head: str | nn.Linear | None = None) -> Panel:
        """Say which network is read, after a state was loaded."""
        reader = self.__dict__["reader"] = Reader(model, head)
        for score in self.scores.values():
            score.__dict__["reader"] = reader
        return self

    def score(self, x: Any) -> dict[str, Tensor]:
        """Scores (N,) by name, of a batch or of its :class:`qact.scores.Outputs`."""
        if not isinstance(x, Outputs):
            if "reader" not in self.__dict__:
                raise RuntimeError(
                    "the panel has no model yet; call fit(model, data) or bind(model)"
                )
            x = self.reader(x)
        return {name: score.score(x) for name, score in self.scores.items()}

    def forward(self, x: Any) -> dict[str, Tensor]:
        """As :meth:`score`."""
        return self.score(x)

    def observe(self, x: Any) -> Panel:
        """Count in-distribution data for every threshold."""
        for name, found in self.score(x).items():
            self.scores[name].observe(found)
        return self

    def threshold(self, rate: float = 0.05) -> dict[str, float]:
        """The threshold of each score, see :meth:`qact.scores.Score.threshold`."""
        return {name: score.threshold(rate) for name, score in self.scores.items()}

    def __getitem__(self, name: str) -> Score:
        return self.scores[name]
