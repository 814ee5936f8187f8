"""Steering: a direction in a layer's channels, added or taken away while the model runs."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.files import load_tensors, save_tensors
from qact.registry import unknown
from qact.surgery import Where, inner
from qact.taps.block import Changing, Visit
from qact.taps.place import Positions, places
from qact.taps.taps import tap
from qact.vectors import lengths, unit_vectors

KINDS = ("add", "ablate", "concept")
FORMAT = "qact.direction.1"
Strength = float | Callable[[Tensor], Tensor]
When = Callable[[Tensor, Visit], Tensor]


@dataclass(frozen=True)
class Direction:
    """A vector for the channels of each of some places, and what it does there.

    - ``"add"``: ``h <- h + strength v``.
    - ``"ablate"``: ``h <- h - strength (h . u) u`` with ``u = v / |v|``.
    - ``"concept"``: ``h <- h + strength e u``, ``e = max(0, logit(target) - b - v . h) / |v|``: the
      least move after which a logistic probe ``sigmoid(v . h + b)`` says ``target``, of samples of
      which it says less (GCAV, Zhang et al. 2025, arXiv 2501.05764).

    Args:
        vectors: by the name of the place, (C,), finite.
        kind: ``"add"``, ``"ablate"`` or ``"concept"``.
        bias: ``b`` of a concept, by place.
        target: of a concept, in (0, 1).
        fingerprint: of the model that it was made with; None fits all.
    """

    vectors: Mapping[str, Tensor]
    kind: str = "add"
    bias: Mapping[str, float] = field(default_factory=dict)
    target: float = 0.5
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        checks.choice("kind", self.kind, KINDS)
        checks.number("target", self.target, "a probability in (0, 1)", 0, 1 - 1e-12)
        for name, vector in self.vectors.items():
            _vector(f"the vector for {name!r}", vector, zero=self.kind == "add")

    def applied(self, h: Tensor, name: str, strength: Tensor | float = 1.0) -> Tensor:
        """``h`` (..., C) at the place ``name``, moved; ``strength`` fits (..., 1)."""
        vector = self.vectors[name]
        if h.shape[-1] != len(vector):
            raise ValueError(
                f"the vector for {name!r} has {len(vector)} channels, the layer {h.shape[-1]}"
            )
        if self.kind == "add":
            return h + strength * vector.to(h)
        size, unit = lengths(vector)[0].to(h), unit_vectors(vector).to(h)
        step = -(h @ unit)
        if self.kind == "concept":
            wanted = math.log(self.target / (1 - self.target)) - self.bias.get(name, 0.0)
            step = (step + wanted / size).clamp_min(0)
        return h + strength * step[..., None] * unit

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as safetensors, atomically; needs the extra ``bench``."""
        facts = {"kind": self.kind, "target": self.target, "bias": dict(self.bias)}
        notes = json.dumps({**facts, "fingerprint": self.fingerprint})
        save_tensors(Path(path), self.vectors, {FORMAT: notes})

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: nn.Module | None = None) -> Direction:
        """Read what :meth:`save` has written.

        Raises:
            DamagedFileError: the file cannot be read. ValueError: it is no direction, or was made
                with another model than ``model``.
        """
        vectors, notes = load_tensors(Path(path))
        if FORMAT not in notes:
            raise ValueError(f"{path} holds tensors, but no direction")
        made = cls(vectors, **json.loads(notes[FORMAT]))
        made.check(model)
        return made

    def check(self, model: nn.Module | None) -> None:
        """Refuse a model that the direction was not made with."""
        same_model("direction", self.fingerprint, model)


def steer(
    model: nn.Module,
    direction: Direction | Tensor,
    where: Where = None,
    strength: Strength = 1.0,
    *,
    positions: Positions = None,
    when: When | None = None,
) -> Changing:
    """Within a block, move a model's activations along a direction.

    Strength 0 is the model itself, bit for bit, and so is every sample that ``when`` leaves out.

    Args:
        model: any model.
        direction: a :class:`qact.taps.Direction`, or a vector (C,), added at each place of
            ``where``.
        where: places as in :func:`qact.tap`; None takes those of the direction.
        strength: a number, or a function of the samples' index (N,) since the block began: a
            schedule.
        positions: which of them are moved, as in :func:`qact.tap`; None moves all.
        when: which samples are moved: a function of the values (N, ..., C) and the visit to a mask
            (N,), such as :class:`qact.taps.Condition`.

    Raises:
        ValueError: there is no such place, the channels do not fit, or the direction was made with
            another model.

    Example:
        >>> import qact
        >>> net, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(5, 3)
        >>> plain = net[0](x)
        >>> with qact.steer(net, torch.ones(4), "0", 2.0), qact.tap(net, "0") as moved:
        ...     _ = net(x)
        >>> moved["0"].equal(plain + 2)
        True
    """
    if isinstance(direction, Tensor):
        if where is None:
            raise ValueError("where=None: a vector alone does not say where; name a place")
        found = places(model, where, positions=positions)
        direction = Direction({place.name: direction for place in found})
    else:
        direction.check(model)
        chosen = [*direction.vectors] if where is None else where
        found = places(model, chosen, positions=positions)
        for place in found:
            if place.name not in direction.vectors:
                raise unknown("place", place.name, direction.vectors, "of the direction")
    if not callable(strength):
        strength = checks.within("strength", strength, -math.inf)
    return Changing(model, found, _moving(direction, strength, when), last=True)


def _moving(direction: Direction, strength: Strength, when: When | None) -> Any:
    def change(h: Tensor, visit: Visit) -> Tensor | None:
        if strength == 0:
            return None
        factor = strength(visit.index) if callable(strength) else strength
        factor = torch.as_tensor(factor).to(h).expand(len(h))
        # Adding nothing would make 0 of -0: whom nothing is added to is left as it is.
        moved = factor != 0 if when is None else (factor != 0) & when(h, visit)
        column = (len(h), *[1] * (h.dim() - 1))
        new = direction.applied(h, visit.name, factor.reshape(column))
        return torch.where(moved.reshape(column), new, h)

    return change


def difference(
    model: nn.Module,
    positive: Any,
    negative: Any,
    where: Where = None,
    *,
    positions: Positions = None,
) -> Direction:
    """Return the direction from one set of inputs to another: the difference of mean activations.

    Contrastive activation addition (Rimsky et al. 2023, arXiv 2312.06681); of one input each,
    ActAdd (Turner et al. 2023, arXiv 2308.10248). Means are over samples and positions.

    Args:
        model: any model, run in ``eval()``.
        positive: batches with what the direction shall lead to.
        negative: batches without.
        where: places as in :func:`qact.tap`.
        positions: which are read.
    """
    a, b = (_means(model, side, where, positions) for side in (positive, negative))
    return Direction(_minus(a, b), fingerprint=fingerprint(model))


def delta(model: nn.Module, base: nn.Module, inputs: Any, where: Where = None) -> Direction:
    """Return how far a fine-tuned model's mean activations are from its base's, on the same inputs.

    Delta activations (Xu et al. 2025, arXiv 2509.04442) tell what a model was tuned for: zero for
    the base itself, and additive, about, for mixtures of data.
    """
    a, b = (_means(net, inputs, where, None) for net in (model, base))
    return Direction(_minus(a, b), fingerprint=fingerprint(base))


def _means(model: nn.Module, inputs: Any, where: Where, positions: Positions) -> dict[str, Tensor]:
    """Mean activations (C,) of each place, in float64."""
    reading = tap(model, where, positions=positions).read("mean")
    reading.run(inputs)
    return {name: values.double().mean(0) for name, values in reading.items()}


def _minus(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (a[name] - b[name]).float() for name in a}


def fingerprint(model: nn.Module) -> str:
    """Return a digest of a model's parameters: names, shapes, types and values.

    Statistics of norms and contexts have no part in it: a model that has adapted is the same.

    >>> net = nn.Linear(2, 2)
    >>> fingerprint(net) == fingerprint(net), len(fingerprint(net))
    (True, 32)
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in inner(model).named_parameters():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def same_model(what: str, made_with: str | None, model: nn.Module | None) -> None:
    """Refuse a model of another fingerprint than something was made with; None fits all."""
    own = None if model is None or made_with is None else fingerprint(model)
    if own is not None and own != made_with:
        raise ValueError(
            f"the {what} was made with a model of fingerprint {made_with}, and this one has {own}: "
            f"its weights are others. Make the {what} anew"
        )


class Question:
    """A question asked of each sample; ``&``, ``|`` and ``~`` make others of it."""

    def __init__(self, ask: When) -> None:
        self._ask = ask

    def __call__(self, h: Tensor, visit: Visit) -> Tensor:
        """Whether each sample of values (N, ..., C) is meant, (N,)."""
        return self._ask(h, visit)

    def __and__(self, other: When) -> Question:
        return Question(lambda h, visit: self(h, visit) & other(h, visit))

    def __or__(self, other: When) -> Question:
        return Question(lambda h, visit: self(h, visit) | other(h, visit))

    def __invert__(self) -> Question:
        return Question(lambda h, visit: ~self(h, visit))


class Condition(Question):
    """Whether a sample's mean activation points along a vector: conditional steering.

    ``sim(h, proj_c h) >= threshold``, cosine similarity and ``proj_c h = (c c^T / c^T c) h``: that
    is ``|cos(h, c)|`` (CAST, Lee et al. 2024, arXiv 2409.05907; without its tanh).

    Args:
        vector: ``c``, (C,).
        threshold: of the score.
        score: a function of mean activations (N, C) in the place of the similarity.
    """

    def __init__(
        self, vector: Tensor, threshold: float, score: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__(lambda h, visit: self.scores(h) >= self.threshold)
        _vector("the vector of a condition", vector, zero=False)
        self.vector, self._score = vector, score
        self.threshold = checks.within("threshold", threshold, -math.inf)

    def scores(self, h: Tensor) -> Tensor:
        """The score of each sample of values (N, ..., C)."""
        mean = h.flatten(1, -2).mean(1) if h.dim() > 2 else h
        if self._score is not None:
            return self._score(mean)
        return (unit_vectors(mean) @ unit_vectors(self.vector).to(mean)).abs()


def _vector(what: str, vector: Tensor, *, zero: bool) -> None:
    """Refuse what is no vector of channels."""
    checks.tensors(**{what: vector})
    if vector.dim() != 1 or not bool(torch.isfinite(vector).all()):
        raise ValueError(f"{what} has shape {tuple(vector.shape)}; it must be (C,) and finite")
    if not zero and not bool(vector.any()):
        raise ValueError(f"{what} is zero, which is no direction")
