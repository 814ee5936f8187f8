"""`Score`: fitted on in-distribution data, then a number per sample, larger where more outlying."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from qact import checks
from qact.context import Context
from qact.scores.outputs import Outputs, Reader
from qact.vectors import wide

Self = TypeVar("Self", bound="Score")

FEW = 4096  # in-distribution scores that a fit keeps for thresholds: their rate to half a percent


class Score(nn.Module):
    """Base of the scores: a subclass gives ``_score``, and ``_fit`` if it learns something.

    What is fitted are buffers, and the in-distribution scores are a :class:`qact.Context` of one
    channel, ``seen``: both travel in the ``state_dict``, and contexts merge. Samples whose outputs
    are not finite score ``inf``.
    """

    reads: tuple[str, ...] = ("logits",)
    from_context = False  # whether a stored context of the features is enough
    seen: Context
    reader: Reader

    def __init__(self) -> None:
        super().__init__()
        self.seen = Context(1)

    def fit(
        self: Self, model: nn.Module, data: Any = None, *, head: str | nn.Linear | None = None
    ) -> Self:
        """Fit on in-distribution data, in one pass without gradients; returns the score.

        Args:
            model: the classifier.
            data: a loader of inputs or ``(input, label)`` pairs, one batch, or
                :class:`qact.scores.Outputs`; or a :class:`qact.Context` of the features. None takes
                the one that ``qact.record(model, loader, inputs=True)`` has stored. A context
                brings no threshold: :meth:`observe` does.
            head: the layer that makes the logits, if it is not the last ``nn.Linear``.

        Raises:
            ValueError: data are empty or not finite, a context is of another layer or model, or it
                is not enough for this score.
        """
        reader = Reader(model, head)
        return self.learn(reader, reader.gather(data))

    def bind(self: Self, model: nn.Module, *, head: str | nn.Linear | None = None) -> Self:
        """Say which network a score reads whose state was loaded."""
        self.__dict__["reader"] = Reader(model, head)  # no part of the score, so no child
        return self

    @torch.no_grad()
    def learn(self: Self, reader: Reader, found: Outputs | Context) -> Self:
        """Fit on what a reader has gathered, which several scores may share."""
        self.__dict__["reader"] = reader
        self.seen.reset_parameters()
        if isinstance(found, Outputs):
            for name in self.reads:
                found.of(name)
            self._fit(found)
            within = self._within(found)
            if not torch.isfinite(within).any():
                raise ValueError(
                    f"none of the {len(within)} in-distribution scores of {type(self).__name__} is "
                    f"a finite number of {within.dtype}; give features and logits in another unit"
                )
            self.observe(within)
        elif self.from_context:
            self._fit_context(found)
        elif self.reads != ("logits",) or type(self)._fit is not Score._fit:
            raise ValueError(
                f"{type(self).__name__} cannot be fitted on a context of the features; give a "
                "loader of in-distribution data"
            )
        return self

    @torch.no_grad()
    def score(self, x: Any) -> Tensor:
        """Return the scores (N,) of a batch of inputs, or of :class:`qact.scores.Outputs`."""
        if not isinstance(x, Outputs):
            x = self._bound()(x)
        found = self._score(x)
        lost = x.logits.isnan().any(1) | (x.logits == torch.inf).any(1) | found.isnan()
        return found.masked_fill(lost, torch.inf)

    def forward(self, x: Any) -> Tensor:
        """As :meth:`score`."""
        return self.score(x)

    @torch.no_grad()
    def observe(self: Self, x: Any) -> Self:
        """Count in-distribution data for the threshold: inputs, outputs, or scores (N,)."""
        scores = x if isinstance(x, Tensor) and x.ndim == 1 else self.score(x)
        finite = scores[torch.isfinite(scores)]
        if len(finite):
            self.seen.add(finite[:, None].float())
        return self

    def threshold(self, rate: float = 0.05) -> float:
        """Return the score that a share ``rate`` of in-distribution data exceeds.

        The order statistic of conformal prediction, ``ceil((n + 1)(1 - rate))`` of the ``n`` scores
        seen, exact to the context's grid: a new exchangeable sample exceeds it with probability at
        most ``rate``.

        Raises:
            RuntimeError: no scores were seen.
            ValueError: they are too few for the rate.
        """
        checks.number("rate", rate, "in (0, 1)", 0, 1 - 1e-12)
        if self.seen.is_empty:
            raise RuntimeError("no in-distribution scores were seen; call fit or observe with data")
        return quantile_of(self.seen, rate)

    def _bound(self) -> Reader:
        if "reader" not in self.__dict__:
            raise RuntimeError(
                f"{type(self).__name__} has no model yet; call fit(model, data), or bind(model) "
                "after loading a state"
            )
        return self.reader

    def _keep(self, **found: Tensor) -> None:
        """Store what was fitted as buffers."""
        for name, value in found.items():
            self.register_buffer(name, value)

    def _within(self, outputs: Outputs) -> Tensor:
        """Scores of (some of) the data of the fit, as new data would have them."""
        return self.score(spread(outputs, FEW))

    def _fit(self, outputs: Outputs) -> None:
        """Nothing, unless a score learns something."""

    def _fit_context(self, context: Context) -> None: ...

    @abstractmethod
    def _score(self, outputs: Outputs) -> Tensor: ...

    def _energy(self, features: Tensor) -> Tensor:
        """Minus the log-sum-exp of the logits that changed features give."""
        head = self._bound().head
        assert head is not None  # who reads features has one
        return -wide(head(features.to(head.weight.dtype))).logsumexp(1)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        """A state brings its own shapes: they depend on the network that it was fitted on."""
        for key, value in state.items():
            name = key[len(prefix) :]
            if key.startswith(prefix) and "." not in name:
                self.register_buffer(name, torch.empty_like(value))
        super()._load_from_state_dict(state, prefix, *args)


def quantile_of(seen: Context, rate: float) -> float:
    """The threshold of :meth:`Score.threshold` of a context of scores; its mass may be a share."""
    n = float(seen.count)
    level = math.ceil((n + 1) * (1 - rate) - 1e-9) / n
    if level > 1:
        raise ValueError(
            f"{n:.0f} in-distribution scores are too few for rate={rate:g}; at least "
            f"{math.ceil(1 / rate - 1e-9) - 1} are needed"
        )
    return float(seen.quantile(level)[0, 0])


def spread(outputs: Outputs, most: int) -> Outputs:
    """At most ``most`` samples, evenly from all of them."""
    step = -(-len(outputs) // most)
    if step == 1:
        return outputs
    parts = (outputs.logits, outputs.features, outputs.labels)
    return Outputs(*(None if part is None else part[::step] for part in parts))  # type: ignore[arg-type]
