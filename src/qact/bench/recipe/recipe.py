"""What is trained and what is measured, as frozen dataclasses: comparable and storable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from qact import checks
from qact.attention.module import normalisers
from qact.bench.errors import RecipeError, refusing
from qact.bench.recipe.shift import Shift, present_names
from qact.bench.recipe.training import Training
from qact.losses.registry import LOSSES
from qact.models.placement import PLACEMENTS
from qact.models.registry import MODELS
from qact.registry import unknown

USUAL_LOSS = "cross_entropy"


@dataclass(frozen=True)
class Data:
    """Which images of :func:`qact.shift.load`; a ``size`` in pixels is for the digits only.

    ``limit`` takes the first images of every split, ``test_limit`` then the first of those to test
    on: with hundreds of conditions it is they that decide the time. ``with_validation`` trains on
    the validation images too, as one does with a recipe in which nothing is left to choose.
    """

    name: str = "digits"
    size: int | None = None
    limit: int | None = None
    test_limit: int | None = None
    with_validation: bool = False

    def __post_init__(self) -> None:
        with refusing("data"):
            if self.test_limit is not None:
                checks.integer("test_limit", self.test_limit, 1)
            checks.flag("with_validation", self.with_validation)

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights: all but the images to test on, and what is not used."""
        unsaid = {"test_limit", *([] if self.with_validation else ["with_validation"])}
        return {k: v for k, v in asdict(self).items() if k not in unsaid}


@dataclass(frozen=True)
class Model:
    """Which network of :mod:`qact.models`, how wide, and where the compared activation stands.

    ``normaliser`` is that of its attention, see :class:`qact.attention.Attention`.
    """

    name: str = "resnet_small"
    width_multiplier: float = 1.0
    placement: str = "everywhere"
    normaliser: str = "softmax"

    def __post_init__(self) -> None:
        with refusing("model"):
            checks.number("width_multiplier", self.width_multiplier, "a positive number", 0)
            MODELS[self.name]
            PLACEMENTS[self.placement]
            if self.normaliser not in (known := normalisers()):
                raise unknown("normaliser", self.normaliser, known)

    def identity(self) -> dict[str, Any]:
        """Return what decides the network; the usual placement and normaliser are not mentioned."""
        usual = {("placement", "everywhere"), ("normaliser", "softmax")}
        return {k: v for k, v in asdict(self).items() if (k, v) not in usual}


@dataclass(frozen=True)
class Recipe:
    """One bench: the grid of activations, losses, seeds, adaptations, streams and conditions.

    Attributes:
        data: the images.
        model: the network.
        training: how it is trained.
        shift: where it is measured.
        activations: what stands in the network.
        seeds: of weights and order.
        losses: what it is trained on, if that is compared; else ``training.loss``.
        further: where it is measured besides; see :func:`qact.bench.recipe.presets.full`.

    Raises:
        RecipeError: a value that is out of range, or two that do not go together.

    Example:
        >>> from qact.bench import Recipe
        >>> recipe = Recipe(activations=("relu", "qact"), seeds=(0, 1))
        >>> len(recipe.cells()), recipe.training.epochs
        (4, 15)
    """

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)
    shift: Shift = field(default_factory=Shift)
    activations: tuple[str, ...] = ("relu", "qact.paper", "qact")
    seeds: tuple[int, ...] = (0, 1, 2)
    losses: tuple[str, ...] = ()
    further: tuple[Shift, ...] = ()

    def __post_init__(self) -> None:
        with refusing("recipe"):
            checks.distinct("activations", self.activations)
            checks.distinct("seeds", self.seeds)
            checks.distinct("losses", self.every_loss())
            for seed in self.seeds:
                checks.integer("seeds", seed, 0)
                if seed >= 2**63:
                    raise ValueError(f"seeds={seed!r} must be below 2^63")
            for loss in self.losses:
                LOSSES[loss]
        if self.data.with_validation and self.training.watches:
            raise RecipeError(
                f"{self.training.watches} needs validation images; with_validation=True trains on "
                "them"
            )
        for shift in self.further:
            if shift.seed != self.shift.seed:
                raise RecipeError(
                    f"all shifts of a recipe need one seed, {self.shift.seed!r}; got {shift.seed!r}"
                )

    def every_loss(self) -> tuple[str, ...]:
        """Return the losses that are compared, which may be one."""
        return self.losses or (self.training.loss,)

    def of_losses(self, losses: tuple[str, ...]) -> Recipe:
        """Return the recipe that compares these losses; one that is its own is not mentioned."""
        return replace(self, losses=() if losses == (self.training.loss,) else losses)

    def shifts(self) -> tuple[Shift, ...]:
        """Return all that is measured: ``shift`` and ``further``."""
        return (self.shift, *self.further)

    def cells(self) -> list[tuple[str, str, int]]:
        """Return (activation, loss, seed), seed by seed, so that a stopped run is balanced."""
        return [
            (a, loss, s) for s in self.seeds for loss in self.every_loss() for a in self.activations
        ]

    def of_loss(self, loss: str) -> Recipe:
        """Return the recipe of the networks that are trained on one loss."""
        return replace(self, training=replace(self.training, loss=loss), losses=())

    def trained(self) -> dict[str, Any]:
        """Return what decides the weights of a cell beside its activation and seed."""
        return {"data": self.data.identity(), "model": self.model.identity()} | {
            "training": self.training.identity()
        }

    def as_dict(self) -> dict[str, Any]:
        """Return nested dictionaries and lists, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Build a recipe from :meth:`as_dict`; lists become tuples again."""
        parts = {"data": Data, "model": Model, "training": Training}
        try:
            nested: dict[str, Any] = {
                key: part(**_tuples(values[key])) for key, part in parts.items()
            }
            nested["shift"] = _shift(values["shift"])
            nested["further"] = tuple(_shift(one) for one in values.get("further", ()))
            own: dict[str, Any] = {k: tuple(values[k]) for k in ("activations", "seeds")}
            own["losses"] = tuple(values.get("losses", ()))  # older files have one
        except (KeyError, TypeError) as error:
            raise RecipeError(f"not a recipe: {error}") from error
        return cls(**nested, **own)


def _shift(values: dict[str, Any]) -> Shift:
    return Shift(**_tuples(present_names(values)))


def network(activation: str, loss: str) -> str:
    """Return how tables and cells call a network; the usual loss is not mentioned.

    Example:
        >>> network("relu", "cross_entropy"), network("relu", "watershed")
        ('relu', 'relu/watershed')
    """
    return activation if loss == USUAL_LOSS else f"{activation}/{loss}"


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def differing(there: Any, here: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two nested dictionaries differ: dotted path, what is there, what is here.

    Example:
        >>> list(differing({"model": {"name": "lenet", "width": 1}}, {"model": {"name": "lenet"}}))
        [('model.width', 1, None)]
    """
    if isinstance(there, dict) and isinstance(here, dict):
        for name in dict.fromkeys((*here, *there)):
            yield from differing(there.get(name), here.get(name), f"{where}.{name}".lstrip("."))
    elif there != here:
        yield where, there, here


def difference(there: Any, here: Any, where: str = "") -> str:
    """Return the first of :func:`differing` in words; empty if there is none."""
    first = next(differing(there, here, where), None)
    return "" if first is None else f"{first[0]}: {first[1]!r} there, {first[2]!r} here"
