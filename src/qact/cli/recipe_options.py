"""The options that change a recipe, once for all commands: what they are called, and what they set.

    @recipe_options(NETWORK | TRAINING)
    def train(flags: Flags, module: Imports = None) -> None: ...

is a command with all of these options; ``flags`` holds what was given, by the names of the recipe.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer

from qact.bench.errors import RecipeError
from qact.bench.recipe.shift import STREAMS
from qact.bench.train.losses import LOSSES
from qact.cli.options import import_all, look_here, plain_errors
from qact.corruptions.augment import AUGMENTATIONS

_KEYWORD = inspect.Parameter.KEYWORD_ONLY

Flags = dict[str, Any]  # "section.option", or "activations", "losses", "seeds"; None: not given


class Setting(NamedTuple):
    """An option of the command line: what it sets, its type and help, and how it is read."""

    sets: str
    kind: Any
    help: str
    names: tuple[str, ...] = ()
    read: Callable[[Any], Any] = lambda value: value


def corruptions_of(asked: list[str] | None) -> list[str] | None:
    """Return the corruptions of a group, or those that were named."""
    from qact.corruptions.registry import expanded

    return expanded(asked) if asked else asked


def seeds_of(count: int | None) -> tuple[int, ...] | None:
    """Return the seeds 0, 1, ... of a number of them."""
    if count is not None and count < 1:
        raise RecipeError(f"--seeds must be at least 1, got {count}")
    return None if count is None else tuple(range(count))


NETWORK = {
    "data": Setting("data.name", str, "Data set; see `qact list`."),
    "limit": Setting("data.limit", int, "The first N images alone."),
    "model": Setting("model.name", str, "Network; see `qact list`."),
    "width": Setting(
        "model.width_multiplier",
        float,
        "Channels, as a multiple of the usual.",
        ("--width", "--width-multiplier"),
    ),
    "placement": Setting("model.placement", str, "everywhere, or paper: as the paper's code."),
}
TRAINING = {
    "epochs": Setting("training.epochs", int, "Epochs of training."),
    "batch": Setting("training.batch", int, "Images per training step."),
    "lr": Setting("training.lr", float, "The highest learning rate."),
    "augmentation": Setting(
        "training.augmentation", str, f"Of training images: {', '.join(AUGMENTATIONS)}."
    ),
    "precision": Setting("training.precision", str, "float32, or bfloat16 for autocast."),
    "compiled": Setting("training.compile", bool, "Train with torch.compile.", ("--compile",)),
}
ONE_LOSS = {"loss": Setting("training.loss", str, f"Loss of the training: {', '.join(LOSSES)}.")}
LOSS_AXIS = {"loss": Setting("losses", list[str], f"Loss: {', '.join(LOSSES)}; repeat.")}
SEEDS = {"seeds": Setting("seeds", int, "Number of seeds (default 3).", read=seeds_of)}
SHIFT = {
    "adaptation": Setting(
        "shift.adaptations",
        list[str],
        "frozen, batch-N, mixed-N, recalibrated-N, or METHOD-N of qact.adapt; repeat.",
    ),
    "corruption": Setting(
        "shift.corruptions",
        list[str],
        "Corruption to measure; repeat; or standard, holdout, all.",
        read=corruptions_of,
    ),
    "severity": Setting("shift.severities", list[int], "0 (clean) to 5; repeat for more."),
    "stream": Setting(
        "shift.streams", list[str], f"How test images arrive: {', '.join(STREAMS)}; repeat."
    ),
}
TEST_LIMIT = {"test_limit": Setting("data.test_limit", int, "Test on the first N images alone.")}


def recipe_options(settings: dict[str, Setting]) -> Callable[[Callable[..., None]], Any]:
    """Give a command these options and ``--import``; what is wrong with them becomes one line.

    The command gets what they set as its argument ``flags``, and the modules, which are imported
    by then, as ``module``.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**given: Any) -> None:
            look_here()
            with plain_errors():
                import_all(given["module"])
                read = {s.sets: s.read(given.pop(name)) for name, s in settings.items()}
                command(flags=read, **given)

        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name], kind=_KEYWORD)
            for name, parameter in inspect.signature(command).parameters.items()
            if name != "flags"
        ]
        shared = [_parameter(name, setting) for name, setting in settings.items()]
        run.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in (*shared, *own)}
        return run

    return decorate


def _parameter(name: str, setting: Setting) -> inspect.Parameter:
    option = typer.Option(*(setting.names or (f"--{name.replace('_', '-')}",)), help=setting.help)
    kind = Annotated[setting.kind | None, option]  # type: ignore[name-defined]
    return inspect.Parameter(name, _KEYWORD, default=None, annotation=kind)
