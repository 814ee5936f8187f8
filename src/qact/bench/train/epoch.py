"""One epoch: every batch once, in an order and at learning rates that follow from its number."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn

from qact.bench.data import Inputs, permutation
from qact.bench.errors import RecipeError
from qact.bench.recipe.training import Training
from qact.bench.train.checkpoint import History, val_scores
from qact.bench.train.distributed import Ranks
from qact.bench.train.ema import follow, settle
from qact.bench.train.losses import Objective, objective
from qact.bench.train.schedules import rate
from qact.corruptions.augment import augment

Advance = Callable[[int], None]  # told how many images were passed


class Loss(nn.Module):
    """A network and its objective as one module, which compilers and DDP can wrap."""

    def __init__(self, model: nn.Module, objective: Objective, precision: str) -> None:
        super().__init__()
        self.model, self.objective, self.precision = model, objective, precision

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the scalar to minimise."""
        with autocast(x.device, self.precision):
            return self.objective(self.model, x, y)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return a block that computes in bfloat16 where that is safe, if it is asked for."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@dataclass
class Loop:
    """What every epoch of one training needs."""

    training: Training
    seed: int
    inputs: Inputs
    model: nn.Module
    average: nn.Module | None
    optimizer: torch.optim.Optimizer
    advance: Advance
    ranks: Ranks

    def __post_init__(self) -> None:
        self.steps = len(self.inputs.train[1]) // self.training.batch
        if not self.steps:
            raise RecipeError(
                f"batch {self.training.batch} is larger than {len(self.inputs.train[1])} training "
                "images"
            )
        if self.training.watches and not len(self.inputs.val[1]):
            raise RecipeError(f"{self.training.watches} needs validation images; there are none")
        chosen = objective(self.training.loss, self.training.label_smoothing)
        loss: nn.Module = Loss(self.model, chosen, self.training.precision)
        loss = self.ranks.wrapped(loss)
        self.loss = torch.compile(loss) if self.training.compile else loss

    def epoch(self, history: History) -> dict[str, float]:
        """Run the epoch that comes next; return its loss, validation accuracy and seconds.

        Without validation images there is no such accuracy.
        """
        number, seed = len(history), self.seed * 100_003 + len(history)
        torch.manual_seed(seed + 7_919 * self.ranks.rank)  # for dropout and the like
        scores = val_scores(history)
        begin = time.perf_counter()
        total = torch.zeros((), dtype=torch.float64, device=self.inputs.train[1].device)
        self.model.train()
        for step, batch in enumerate(self._batches(number), start=number * self.steps):
            self._set_rate(rate(self.training, step, self.steps, scores))
            total += self._step(self.ranks.share(batch), step)
            self.advance(len(batch))
        loss = self._finite(total) / self.steps
        seconds = time.perf_counter() - begin
        loss, accuracy, seconds = self.ranks.mean([loss, self._validate(), seconds])
        watched = {"val_accuracy": accuracy} if len(self.inputs.val[1]) else {}
        return {"loss": loss} | watched | {"seconds": round(seconds, 3)}

    def _batches(self, number: int) -> tuple[Tensor, ...]:
        # The last, incomplete batch is left out: its statistics would be those of a few images.
        order = permutation(len(self.inputs.train[1]), self.seed, number)
        return order.split(self.training.batch)[: self.steps]

    def _set_rate(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _step(self, batch: Tensor, step: int) -> Tensor:
        loss = self.loss(self._images(batch, step // self.steps), self.inputs.train[1][batch])
        value = loss.detach().double()
        if value.device.type == "cpu":  # where looking costs nothing
            self._finite(value)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.average is not None:
            follow(self.average, self.model, self.training.ema, step)
        return value

    def _images(self, batch: Tensor, epoch: int) -> Tensor:
        """Return training images; an image's augmentation follows from seed, epoch and image."""
        name = self.training.augmentation
        if name == "none":
            return self.inputs.train[0][batch]
        stored = self.inputs.stored[batch]
        changed = augment(stored, name, seed=self.seed, epoch=epoch, index=batch)
        return self.inputs.normalised(changed.float() / 255)

    def _finite(self, loss: Tensor) -> float:
        value = float(loss)
        if not isfinite(value):
            raise FloatingPointError(f"the training loss became {value}; a lower lr may help")
        return value

    def _validate(self) -> float:
        """Return the validation accuracy of what the training would return now."""
        self.ranks.agree(self.model)
        if self.average is None:
            return val_accuracy(self.model, self.inputs)
        order = permutation(len(self.inputs.train[1]), self.seed).split(self.training.batch)
        settle(self.average, (self.inputs.train[0][part] for part in order[: self.steps]))
        return val_accuracy(self.average, self.inputs)


@torch.inference_mode()
def val_accuracy(model: nn.Module, inputs: Inputs) -> float:
    """Return the share of validation images that a network gets right, with stored statistics."""
    model.eval()
    hits, (images, labels) = 0, inputs.val
    for x, y in zip(images.split(100), labels.split(100), strict=True):
        hits += int((model(x).argmax(1) == y).sum())
    return hits / max(1, len(labels))
