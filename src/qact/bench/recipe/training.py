"""How a network is trained: every option of a training recipe, checked when it is made."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

from qact import checks
from qact.bench.errors import RecipeError, refusing
from qact.corruptions.augment import AUGMENTATIONS
from qact.losses.registry import LOSSES
from qact.registry import unknown

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("one_cycle", "cosine", "multistep", "plateau", "constant", "triangle")
PRECISIONS = ("float32", "bfloat16")
SELECTIONS = ("last", "best")

# What decided the weights before the other options existed. Those are mentioned in the identity of
# a network only where they are used, so that what was trained earlier is still recognised.
_ALWAYS = {"epochs", "batch", "optimizer", "lr", "weight_decay", "label_smoothing", "loss"}


@dataclass(frozen=True)
class Training:
    """How every activation is trained: the same for all, chosen for ReLU on validation images.

    Attributes:
        epochs: passes over the training images.
        batch: images per step, of all processes together.
        optimizer: ``"adamw"`` (without weight decay it is Adam) or ``"sgd"``.
        lr: the highest learning rate.
        weight_decay: of matrices and filters; scales and shifts never decay.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).
        loss: ``"cross_entropy"``, or another of :mod:`qact.losses`.
        momentum: of SGD, in [0, 1).
        nesterov: Nesterov's momentum, for SGD.
        schedule: the learning rate over the steps, see :mod:`qact.bench.train.schedules`.
        warmup: epochs of linear warm-up before ``cosine``, ``multistep``, ``constant`` or
            ``triangle``.
        ema: decay of an exponential moving average of the weights, which is then the result;
            0 for none.
        precision: ``"float32"``, or ``"bfloat16"`` for autocast.
        compile: train with ``torch.compile``; what is stored is the plain network.
        augmentation: what happens to training images, see :func:`qact.corruptions.augment.augment`.
        select: the weights of the ``"last"`` epoch, or of the ``"best"`` on validation images.
        patience: stop after so many epochs without a gain of 0.001 in validation accuracy; 0 never.

    Raises:
        RecipeError: a value that is out of range, or two that do not go together.

    Example:
        >>> from qact.bench import Training
        >>> Training(epochs=30, optimizer="sgd", lr=0.1, schedule="cosine", warmup=2).momentum
        0.9
    """

    epochs: int = 15
    batch: int = 50
    optimizer: str = "adamw"
    lr: float = 1e-2
    weight_decay: float = 1e-2
    label_smoothing: float = 0.0
    loss: str = "cross_entropy"
    momentum: float = 0.9
    nesterov: bool = True
    schedule: str = "one_cycle"
    warmup: float = 0.0
    ema: float = 0.0
    precision: str = "float32"
    compile: bool = False
    augmentation: str = "none"
    select: str = "last"
    patience: int = 0

    def __post_init__(self) -> None:
        with refusing("training"):
            for name, least in (("epochs", 1), ("batch", 2), ("patience", 0)):
                checks.integer(name, getattr(self, name), least)
            checks.number("lr", self.lr, "a positive number", 0)
            for name in ("weight_decay", "warmup"):
                checks.within(name, getattr(self, name), 0)
            for name in ("label_smoothing", "momentum", "ema"):
                checks.within(name, getattr(self, name), 0, 1)
            for name in ("nesterov", "compile"):
                checks.flag(name, getattr(self, name))
            for name, known in _CHOICES.items():
                value = getattr(self, name)
                if not isinstance(value, str) or value not in known:
                    raise unknown(name, value, known)
        self._check_together()

    def _check_together(self) -> None:
        if self.optimizer == "sgd" and self.nesterov and not self.momentum:
            raise RecipeError("training.nesterov needs a momentum above 0, got momentum 0")
        if self.warmup and self.schedule in ("one_cycle", "plateau"):
            raise RecipeError(
                f"training.warmup is for cosine, multistep, constant and triangle; got "
                f"{self.warmup!r} with {self.schedule!r}"
            )
        if self.warmup and self.warmup >= self.epochs:
            raise RecipeError(
                f"training.warmup must be shorter than the {self.epochs} epochs, got "
                f"{self.warmup!r}"
            )

    @property
    def watches(self) -> str:
        """What looks at validation accuracy; empty where nothing does."""
        if self.select == "best":
            return "training.select='best'"
        if self.schedule == "plateau":
            return "training.schedule='plateau'"
        return f"training.patience={self.patience}" if self.patience else ""

    def fitted(self, images: int) -> Training:
        """Return this training with a batch no larger than so many training images, 2 at least.

        Example:
            >>> Training().fitted(24).batch, Training().fitted(1_000).batch
            (24, 50)
        """
        return replace(self, batch=max(2, min(self.batch, images)))

    def blind(self) -> Training:
        """Return this training without what looks at validation accuracy.

        Example:
            >>> Training(select="best", schedule="plateau", patience=3).blind().schedule
            'constant'
        """
        schedule = "constant" if self.schedule == "plateau" else self.schedule
        return replace(self, select="last", patience=0, schedule=schedule)

    def identity(self) -> dict[str, Any]:
        """Return what decides the weights; options at their defaults are mostly not mentioned."""
        usual = {f: type(self).__dataclass_fields__[f].default for f in asdict(self)}
        return {k: v for k, v in asdict(self).items() if k in _ALWAYS or v != usual[k]}


_CHOICES: dict[str, Collection[str]] = {
    "optimizer": OPTIMIZERS,
    "loss": LOSSES,
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
    "augmentation": AUGMENTATIONS,
    "select": SELECTIONS,
}
