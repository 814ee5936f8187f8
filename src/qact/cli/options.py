"""The options that change a recipe, once for all commands, and errors as one line.

    @recipe_options(NETWORK | TRAINING)
    def train(flags: Flags, module: Imports = None) -> None: ...

is a command with all of these options; ``flags`` holds what was given, by the names of the recipe.
"""

from __future__ import annotations

import importlib
import inspect
import math
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import typer

from qact.extras import needed

_KEYWORD = inspect.Parameter.KEYWORD_ONLY

Flags = dict[str, Any]  # "section.option", or "activations", "losses", "seeds"; None: not given
Preset = Annotated[
    str | None, typer.Option("--preset", help="Training recipe by name; see `qact list`.")
]
Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import", help="Module that registers what is named: activations, corruptions, data."
    ),
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")]
On = Annotated[
    str | None,
    typer.Option("--on", help="processes:N, dask://HOST:PORT, ray://HOST:PORT or ray://auto."),
]
DATA = "Data set of `qact list`, a folder with one folder of images per class, or an .npz file."


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
    return None if count is None else tuple(range(at_least_one("--seeds", count)))


def at_least_one(option: str, value: int, most: float = math.inf) -> int:
    """Refuse what counts nothing, and more than ``most``."""
    if not 1 <= value <= most:
        valid = "at least 1" if most == math.inf else f"1 to {most}"
        raise typer.BadParameter(f"{option} must be {valid}, got {value}")
    return value


def integer(text: str) -> int:
    """Read a whole number; what is none is repeated, which not every version of typer does."""
    return _read(int, text, "a whole number")


def number(text: str) -> float:
    """Read a number."""
    return _read(float, text, "a number")


def _read(kind: Any, text: str, valid: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} must be {valid}") from None


# How an option's value is read, and how help calls it.
_READ: dict[Any, tuple[Any, str]] = {int: (integer, "INTEGER"), float: (number, "NUMBER")}


def option(*names: str, of: Any, help: str) -> Any:
    """Return typer's option of a kind, or of a list of it; numbers are read as said above."""
    one = (*get_args(of), of)[0]
    read, called = _READ.get(one, (None, None))
    return typer.Option(*names, help=help, parser=read, metavar=called)


NETWORK = {
    "data": Setting("data.name", str, DATA),
    "limit": Setting("data.limit", int, "The first N images alone."),
    "with_validation": Setting(
        "data.with_validation", bool, "Train on validation images too.", ("--with-validation",)
    ),
    "model": Setting("model.name", str, "Network; see `qact list`."),
    "width": Setting(
        "model.width_multiplier",
        float,
        "Channels, as a multiple of the usual.",
        ("--width", "--width-multiplier"),
    ),
    "placement": Setting("model.placement", str, "everywhere, or paper: as the paper's code."),
    "normaliser": Setting("model.normaliser", str, "Of the attention of a transformer."),
}
TRAINING = {
    "epochs": Setting("training.epochs", int, "Epochs of training."),
    "batch": Setting("training.batch", int, "Images per training step."),
    "lr": Setting("training.lr", float, "The highest learning rate."),
    "augmentation": Setting("training.augmentation", str, "Of training images; see `qact list`."),
    "precision": Setting("training.precision", str, "float32, or bfloat16 for autocast."),
    "compiled": Setting("training.compile", bool, "Train with torch.compile.", ("--compile",)),
}
ONE_LOSS = {"loss": Setting("training.loss", str, "Loss of the training; see `qact list`.")}
LOSS_AXIS = {"loss": Setting("losses", list[str], "Loss to compare; repeat; see `qact list`.")}
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
    "stream": Setting("shift.streams", list[str], "Order of test images; repeat; see `qact list`."),
}
TEST_LIMIT = {"test_limit": Setting("data.test_limit", int, "Test on the first N images alone.")}


def recipe_options(
    settings: dict[str, Setting], *, resumes: bool = True
) -> Callable[[Callable[..., None]], Any]:
    """Give a command these options and ``--import``; what is wrong with them becomes one line.

    The command gets what they set as its argument ``flags``, and the modules, which are imported
    by then, as ``module``.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**given: Any) -> None:
            look_here()
            with plain_errors(resumes=resumes):
                import_all(given["module"])
                with needed("the command line", "bench"):
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
    names = setting.names or (f"--{name.replace('_', '-')}",)
    kind = Annotated[setting.kind | None, option(*names, of=setting.kind, help=setting.help)]  # type: ignore[name-defined]
    return inspect.Parameter(name, _KEYWORD, default=None, annotation=kind)


def command_line() -> str:
    """Return what was typed, to repeat it."""
    return shlex.join(["qact", *sys.argv[1:]])


def look_here() -> None:
    """Let ``--import`` find modules in the working folder; a console script does not by itself."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def import_all(modules: list[str] | None) -> None:
    """Import the modules that register a user's own activations, corruptions and data sets."""
    for module in modules or []:
        if not all(part.isidentifier() for part in module.split(".")):
            raise typer.BadParameter(f"--import takes the dotted name of a module, got {module!r}")
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if module.endswith(".py") and error.name == module:
                raise typer.BadParameter(
                    f"--import takes a module, got the file {module!r}; write {module[:-3]!r}"
                ) from error
            raise


@contextmanager
def plain_errors(*further: type[Exception], resumes: bool = True) -> Iterator[None]:
    """Turn what the user can put right into one line; leave defects of ours their traceback.

    Args:
        further: errors that are the user's too, where a command calls the library directly.
        resumes: whether the same command goes on after an interruption.
    """
    try:
        yield
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from here" if resumes else ""
        typer.echo(f"qact: stopped{goes_on}", err=True)
        raise typer.Exit(130) from None
    except Exception as error:
        # Such an error can only come from where it is defined: nothing is imported for it.
        ours = getattr(sys.modules.get("qact.files"), "ReportedError", OSError)
        if not isinstance(error, (OSError, ImportError, ours, *further)):
            raise
        _refuse(error)


@contextmanager
def at_work(*further: type[Exception], resumes: bool = True) -> Iterator[None]:
    """:func:`plain_errors`, and a missing package is said with the extra that brings it."""
    with plain_errors(*further, resumes=resumes), needed("the command line", "bench"):
        yield


def _refuse(error: Exception) -> None:
    from qact.checks import reason

    # Errors of ours have their sentence; what the system says is a number and a name.
    ours = type(error).__module__.startswith("qact.") or not isinstance(error, OSError)
    typer.echo(f"qact: {error if ours else reason(error)}", err=True)
    raise typer.Exit(2) from None
