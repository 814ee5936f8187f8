"""Where trained networks are measured: corruptions, severities, adaptations and streams."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from qact import checks
from qact.bench.errors import RecipeError, refusing
from qact.bench.recipe.adaptations import parse_adaptation
from qact.datasets.streams import PLANS
from qact.registry import unknown

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
STREAMS = tuple(PLANS)
ALL = "all"  # the corruption of a row that runs through several
WORST = 5
CLEAN = ("none", 0)


@dataclass(frozen=True)
class Shift:
    """Where every trained network is measured; severity 0 is the clean test set.

    Attributes:
        corruptions: of :mod:`qact.shift`.
        severities: 0 to 5.
        adaptations: see :func:`qact.bench.recipe.adaptations.parse_adaptation`.
        streams: of :mod:`qact.datasets.streams`; those that begin anew with every condition have a
            row for each, the others one per severity.
        seed: of the corruptions; that of the network decides the order of the images.
        images: test on the first ones alone.

    Raises:
        RecipeError: a value that is out of range, or given twice.
    """

    corruptions: tuple[str, ...] = CORRUPTIONS
    severities: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    adaptations: tuple[str, ...] = ("frozen", "batch-200", "batch-16")
    streams: tuple[str, ...] = ("iid",)
    seed: int = 0
    images: int | None = None

    def __post_init__(self) -> None:
        with refusing("shift"):
            for name in ("corruptions", "severities", "adaptations", "streams"):
                checks.distinct(name, getattr(self, name))
            for severity in self.severities:
                if isinstance(severity, bool) or severity not in range(WORST + 1):
                    raise ValueError(f"severities={severity!r} must be 0 (clean) to 5")
            for adaptation in self.adaptations:
                parse_adaptation(adaptation)
            for stream in self.streams:
                if stream not in STREAMS:
                    raise unknown("stream", stream, STREAMS)
            checks.integer("seed", self.seed, 0)
            if self.images is not None:
                checks.integer("images", self.images, 1)

    def fitted(self, images: int) -> Shift:
        """Return this shift with no batch larger than a test set of so many images.

        Example:
            >>> Shift().fitted(24).adaptations
            ('frozen', 'batch-24', 'batch-16')
        """
        kinds = [parse_adaptation(name) for name in self.adaptations]
        names = [
            k.name if k.batch is None or k.batch <= images else f"{k.kind}-{images}" for k in kinds
        ]
        return replace(self, adaptations=tuple(dict.fromkeys(names)))

    def conditions(self, stream: str = "iid") -> list[tuple[str, int]]:
        """Return the (corruption, severity) pairs of a stream's rows.

        Clean images count once, as ``("none", 0)``, where the stream begins anew with every
        condition. A stream that runs through them has the corruption ``"all"``; ``gradual`` rises
        to severity 5 by itself.

        Example:
            >>> shift = Shift(corruptions=("fog", "snow"), severities=(0, 5))
            >>> shift.conditions(), shift.conditions("mixed")
            ([('none', 0), ('fog', 5), ('snow', 5)], [('all', 5)])
        """
        shifted = [severity for severity in self.severities if severity > 0]
        if begins_anew(stream):
            clean = [CLEAN] if 0 in self.severities else []
            return clean + [(c, s) for c in self.corruptions for s in shifted]
        if stream == "gradual":
            return [(ALL, WORST)] if shifted else []
        return [(ALL, severity) for severity in shifted]


def begins_anew(stream: str) -> bool:
    """Whether every condition is a start of its own, as :class:`qact.shift.streams.Stream` has it.

    Example:
        >>> begins_anew("sorted"), begins_anew("continual")
        (True, False)
    """
    return PLANS[stream][1]


def present_names(section: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a file with the names that they have now: ``stream`` was a single one.

    Example:
        >>> present_names({"stream": "sorted", "seed": 1})
        {'streams': ('sorted',), 'seed': 1}
    """
    if "stream" in section and "streams" in section:
        raise RecipeError("shift.stream is the old name of shift.streams; give one of them")
    return {
        "streams" if k == "stream" else k: (v,) if k == "stream" else v for k, v in section.items()
    }
