"""How adaptations are called: the bench's own, and every method of :mod:`qact.adapt`."""

from __future__ import annotations

from ast import literal_eval
from dataclasses import dataclass, field
from typing import Any

from qact.adapt import entry, methods
from qact.bench.errors import RecipeError
from qact.recalibrate.block import PRIOR
from qact.registry import unknown

# The bench's own, their contexts, and the method that does the same batch by batch on any stream.
OWN = {
    "frozen": ("running", "source", {}),
    "batch": ("batch", "batch", {}),
    "mixed": ("mixed", "mixed", {}),
    "recalibrated": ("recalibrated", "aqr", {"prior": PRIOR}),
}
FORMS = "'frozen', 'batch-N', 'mixed-N' or 'recalibrated-N' with N >= 1"
WHOLE = ("iid", "sorted", "dirichlet")  # streams of the whole test set under one condition


@dataclass(frozen=True)
class Adaptation:
    """A parsed adaptation.

    Attributes:
        name: as it was given.
        batch: images per batch; None where batches have no meaning.
        method: of :mod:`qact.adapt`.
        options: of the method.
        context: of :func:`qact.adapting` for the bench's own, or ``"recalibrated"``; else None.
    """

    name: str
    batch: int | None
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    context: str | None = None

    @property
    def kind(self) -> str:
        """The name without its batch size: what a row of a table is called."""
        return self.name if self.batch is None else self.name.rpartition("-")[0]

    def deals(self, stream: str) -> bool:
        """Whether it deals the whole test set into full batches, as the bench's own do.

        On the other streams the method of the same statistics takes their place.
        """
        return self.context is not None and stream in WHOLE


def parse_adaptation(name: str) -> Adaptation:
    """Read ``"frozen"``, ``"batch-N"``, ``"mixed-N"``, ``"recalibrated-N"`` or ``"METHOD-N"``.

    ``METHOD`` is a name of :func:`qact.adapt.methods`; its options may follow after a colon.
    Whether there is such a method, :func:`check_adaptation` says.

    Example:
        >>> parse_adaptation("batch-200").batch
        200
        >>> found = parse_adaptation("cotta:views=4,restore=0.02-64")
        >>> found.method, found.options, found.batch
        ('cotta', {'views': 4, 'restore': 0.02}, 64)
    """
    if name == "frozen":
        return Adaptation(name, None, "source", {}, "running")
    head, _, size = name.rpartition("-")
    method, colon, rest = head.partition(":")
    if not method or not size.isdecimal() or size.startswith("0") or (colon and not rest):
        raise RecipeError(_expected(name))
    if head in OWN and head != "frozen":
        context, like, options = OWN[head]
        return Adaptation(name, int(size), like, dict(options), context)
    pairs = [pair.partition("=") for pair in rest.split(",")] if rest else []
    if any(not option or not value for option, _, value in pairs):
        raise RecipeError(f"options of {name!r} must be written as option=value,option=value")
    return Adaptation(name, int(size), method, {key: _value(text) for key, _, text in pairs})


def check_adaptation(name: str) -> None:
    """Refuse a method that is not registered, or an option that it has not.

    Example:
        >>> check_adaptation("tent:rate=1-64")
        Traceback (most recent call last):
        qact.bench.errors.RecipeError: 'tent' has no option 'rate'; it has context, episodic, ...
    """
    found = parse_adaptation(name)
    if found.method not in methods():
        asked = name.partition(":")[0].rpartition("-")[0]
        told = unknown("method", asked, methods())
        raise RecipeError(f"adaptation {name!r}: {told}; or {FORMS}")
    known = entry(found.method).options()
    for option in found.options:
        if option not in known:
            listed = ", ".join(sorted(known))
            raise RecipeError(f"{found.method!r} has no option {option!r}; it has {listed}")


def _expected(name: str) -> str:
    return (
        f"adaptation must be {FORMS}, or 'METHOD-N' with one of {', '.join(methods())}; "
        f"got {name!r}"
    )


def _value(text: str) -> Any:
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def heading(adaptation: str) -> str:
    """Return the adaptation as headings say it; frozen is what single samples get."""
    return "frozen = single samples" if adaptation == "frozen" else adaptation


def describe(adaptation: str) -> str:
    """Return one sentence for captions."""
    kind = parse_adaptation(adaptation)
    if kind.batch is None:
        return (
            "statistics stored at training time; every image is predicted on its own, "
            "so single samples get these numbers"
        )
    if kind.context == "recalibrated":
        return (
            f"stored statistics; what the norms put out for {kind.batch} i.i.d. images of one "
            "corruption and severity is mapped by rank onto the same for training images"
        )
    if kind.context is None:
        paper = f" ({entry(kind.method).paper})" if kind.method in methods() else ""
        return f"goes through the stream in batches of {kind.batch}{paper}"
    own = f"statistics of the test batch, {kind.batch} i.i.d. images of one corruption and severity"
    return own if kind.context == "batch" else f"{own}, mixed with the stored ones"
