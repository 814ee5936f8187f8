"""What is trained and what is measured, as frozen dataclasses: comparable and storable."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from qact.bench import values
from qact.bench.adapt import parse_adaptation
from qact.bench.errors import RecipeError
from qact.bench.training import Training
from qact.models.registry import MODELS, PLACEMENTS

# Two of each family of CIFAR-10-C (noise, blur, weather, digital), fixed before any result.
CORRUPTIONS = (
    "gaussian_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "snow",
    "fog",
    "contrast",
    "elastic_transform",
)

STREAMS = ("iid", "sorted", "dirichlet")  # orders of the images of one corruption and severity


@dataclass(frozen=True)
class Data:
    """Which images of :func:`qact.shift.load`; a ``size`` in pixels is for the digits only.

    ``limit`` takes the first images of every split, ``test_limit`` then the first of those to test
    on: with hundreds of conditions it is they that decide the time.
    """

    name: str = "digits"
    size: int | None = None
    limit: int | None = None
    test_limit: int | None = None

    def __post_init__(self) -> None:
        if self.test_limit is not None:
            values.whole("data", 1, test_limit=self.test_limit)

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights: everything but the images to test on."""
        return {k: v for k, v in asdict(self).items() if k != "test_limit"}


@dataclass(frozen=True)
class Model:
    """Which network of :mod:`qact.models`, how wide, and where the compared activation stands."""

    name: str = "resnet_small"
    width_multiplier: float = 1.0
    placement: str = "everywhere"

    def __post_init__(self) -> None:
        values.positive("model", width_multiplier=self.width_multiplier)
        values.one_of("model.name", self.name, tuple(MODELS))
        values.one_of("model.placement", self.placement, tuple(PLACEMENTS))

    def identity(self) -> dict[str, Any]:
        """Return what decides the network; the usual placement is not mentioned."""
        whole = asdict(self)
        return {k: v for k, v in whole.items() if (k, v) != ("placement", "everywhere")}


@dataclass(frozen=True)
class Shift:
    """Where every trained network is measured; severity 0 is the clean test set."""

    corruptions: tuple[str, ...] = CORRUPTIONS
    severities: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    adaptations: tuple[str, ...] = ("frozen", "batch-200", "batch-16")
    stream: str = "iid"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("corruptions", "severities", "adaptations"):
            values.distinct(name, getattr(self, name))
        for severity in self.severities:
            if isinstance(severity, bool) or severity not in range(6):
                raise RecipeError(f"severities run from 0 (clean) to 5, got {severity!r}")
        for adaptation in self.adaptations:
            parse_adaptation(adaptation)
        values.one_of("shift.stream", self.stream, STREAMS)

    def conditions(self) -> list[tuple[str, int]]:
        """Return the (corruption, severity) pairs; clean images count once, as ``("none", 0)``."""
        clean = [("none", 0)] if 0 in self.severities else []
        return clean + [(c, s) for c in self.corruptions for s in self.severities if s > 0]


@dataclass(frozen=True)
class Recipe:
    """One bench: the grid of activations, seeds, adaptations, corruptions and severities.

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

    def __post_init__(self) -> None:
        values.distinct("activations", self.activations)
        values.distinct("seeds", self.seeds)
        if min(self.seeds) < 0:
            raise RecipeError(f"seeds must not be negative, got {self.seeds!r}")

    def cells(self) -> list[tuple[str, int]]:
        """Return the (activation, seed) pairs, seed by seed, so that a stopped run is balanced."""
        return [(activation, seed) for seed in self.seeds for activation in self.activations]

    def trained(self) -> dict[str, Any]:
        """Return the part that decides the weights of a cell (with its activation and seed)."""
        return {"data": self.data.identity(), "model": self.model.identity()} | {
            "training": self.training.identity()
        }

    def as_dict(self) -> dict[str, Any]:
        """Return nested dictionaries and lists, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Build a recipe from :meth:`as_dict`; lists become tuples again."""
        parts = {"data": Data, "model": Model, "training": Training, "shift": Shift}
        try:
            nested: dict[str, Any] = {
                key: part(**_tuples(values[key])) for key, part in parts.items()
            }
            own: dict[str, Any] = {key: tuple(values[key]) for key in ("activations", "seeds")}
        except (KeyError, TypeError) as error:
            raise RecipeError(f"not a recipe: {error}") from error
        return cls(**nested, **own)


def quick(recipe: Recipe) -> Recipe:
    """Return the half-minute version: one seed, few epochs, half of everything measured."""
    shift = replace(
        recipe.shift,
        corruptions=recipe.shift.corruptions[::2],  # still one of each family
        severities=(0, 3, 5),
        adaptations=("frozen", "batch-200"),
    )
    return replace(
        recipe,
        training=replace(recipe.training, epochs=6),
        shift=shift,
        seeds=recipe.seeds[:1],
    )


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
