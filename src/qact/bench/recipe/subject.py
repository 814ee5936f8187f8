"""What is trained: which images, and which network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from qact.bench.recipe import values
from qact.models.registry import MODELS, PLACEMENTS


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
