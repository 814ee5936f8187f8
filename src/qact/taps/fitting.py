"""Training of sparse autoencoders: an auxiliary loss for dead features, and resuming to the bit."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.activations.sparse import topk
from qact.files import load_tensors, save_tensors
from qact.surgery import Where
from qact.taps.autoencoder import Autoencoder, rows_of
from qact.taps.features import by_position
from qact.taps.reading import Reading
from qact.taps.steering import fingerprint
from qact.taps.taps import tap
from qact.vectors import unit_of, unit_vectors

CHECKPOINT = "qact.autoencoder.checkpoint.1"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
FACTS = (
    *("latents", "k", "steps", "batch", "rate", "aux", "aux_weight", "dead_after", "seed"),
    "values",
)


@dataclass(frozen=True)
class Progress:
    """Of a training step: its number, its loss and how many features were dead before it."""

    step: int
    loss: float
    dead: int


def autoencode(
    model: nn.Module,
    where: Where,
    inputs: Any,
    latents: int,
    *,
    sample: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Autoencoder:
    """Train an :class:`Autoencoder` on what passes one place of ``model``, by position.

    Values of a map (N, C, H, W) are those of its H W positions, of tokens (N, T, C) of its T.

    Args:
        model: any model, run in ``eval()``.
        where: one place, as in :func:`qact.tap`.
        inputs: batches for the model; what passes is kept in memory.
        latents: how many features.
        sample: at most so many positions of each sample, drawn by ``seed``; None takes all.
        seed: of the draw and of the training.
        **options: of :func:`fit_autoencoder`.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())
        >>> made = autoencode(net, "1", torch.randn(64, 1, 6, 6), 32, k=4, steps=5)
        >>> made
        Autoencoder(
          8, latents=32, k=4, where='1'
          (encoder): Linear(in_features=8, out_features=32, bias=True)
        )
    """
    reading = Reading(model, tap(model, where).places, by_position, sample, seed=seed)
    reading.run(inputs)
    values = reading.value
    made = fit_autoencoder(values, latents, seed=seed, **options)
    made.where, made.fingerprint = reading.places[0].name, fingerprint(model)
    return made


def fit_autoencoder(
    values: Tensor,
    latents: int,
    *,
    k: int = 8,
    steps: int = 1000,
    batch: int = 256,
    rate: float = 2e-3,
    aux: int | None = None,
    aux_weight: float = 1 / 32,
    dead_after: int = 20_000,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 100,
    told: Callable[[Progress], None] | None = None,
) -> Autoencoder:
    """Train an :class:`Autoencoder` on values (..., C), channels at the end.

    The loss is ``|x - x'|^2`` plus ``aux_weight`` times ``|e - e'|^2 / |e|^2``, in which the best
    ``aux`` of the dead features model the rest ``e = x - x'`` (arXiv 2406.04093, section 2.4 and
    appendix A.2), in units of the variance. Features keep length 1.

    With ``checkpoint=`` a training that was killed goes on where the file was written last, and
    ends at the same bits; a finished one is read. Needs the extra ``bench``.

    Args:
        values: what the features shall stand for, finite.
        latents: how many features.
        k: how many are active at a time.
        steps: of Adam.
        batch: values per step.
        rate: of Adam.
        aux: how many dead features model what is left; None is half of the channels.
        aux_weight: of that loss; 0 leaves it out.
        dead_after: a feature is dead that so many values in a row have not activated.
        seed: of the start and of the order of values.
        checkpoint: a file for state, written every ``every`` steps.
        every: steps between two writings.
        told: called with the :class:`Progress` of each step.

    Raises:
        ValueError: a value is not finite or all are the same, or the checkpoint is of another
            training.
    """
    rows = rows_of(values)
    for name, number in {"steps": steps, "batch": batch, "dead_after": dead_after}.items():
        checks.integer(name, number, 1)
    checks.integer("every", every, 1)
    checks.number("rate", rate, "a positive number", 0)
    aux = max(rows.shape[1] // 2, 1) if aux is None else checks.integer("aux", aux, 1)
    run = _Training(rows, latents, k, seed, rate)
    file = None
    if checkpoint is not None:
        facts = (latents, k, steps, batch, rate, aux, aux_weight, dead_after, seed, _digest(rows))
        file = _Checkpoint(Path(checkpoint), run, json.dumps(dict(zip(FACTS, facts, strict=True))))
    first = 0 if file is None else file.resume()
    for step in range(first, steps):
        # The order follows from the step alone: nothing of it needs to be stored.
        generator = torch.Generator().manual_seed((seed << 32) + step)
        index = torch.randint(len(rows), (batch,), generator=generator)
        progress = run.step(step, rows[index], aux, aux_weight, dead_after)
        if file is not None and ((step + 1) % every == 0 or step + 1 == steps):
            file.write(step + 1)
        if told is not None:
            told(progress)
    return run.made


class _Training:
    """An autoencoder, its optimiser, and one step of them."""

    def __init__(self, rows: Tensor, latents: int, k: int, seed: int, rate: float) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.made = Autoencoder(rows.shape[1], latents, k)
        with torch.no_grad():
            apart = rows - rows.mean(0)
            scale = unit_of(apart) * (apart / unit_of(apart)).square().mean().sqrt()
            if not float(scale) > 0:
                raise ValueError("all values are the same: there is nothing to learn")
            self.made.scale.copy_(scale)
            self.made.center.copy_(_median(rows / scale))
        self.made.to(rows.device)
        self.optimiser = torch.optim.Adam(self.made.parameters(), rate, eps=6.25e-10)

    def step(self, step: int, x: Tensor, aux: int, weight: float, dead_after: int) -> Progress:
        made = self.made
        scores = made.scores(x)
        z = topk(scores, made.k, dim=-1)
        left = (x - made.decode(z)) / made.scale
        loss = left.square().mean()
        dead = (made.unused >= dead_after).nonzero().flatten()
        if weight and len(dead):
            loss = loss + weight * self._rest(scores, left.detach(), dead, aux)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        self.optimiser.step()
        with torch.no_grad():
            made.decoder.copy_(unit_vectors(made.decoder))
            made.unused.add_(len(x)).masked_fill_((z != 0).any(0), 0)
        return Progress(step, loss.item(), len(dead))

    def _rest(self, scores: Tensor, left: Tensor, dead: Tensor, aux: int) -> Tensor:
        """What the best of the dead features leave of the rest; whatever their sign, they learn."""
        mine = scores[:, dead]
        best = mine.topk(min(aux, len(dead)), 1)
        z = torch.zeros_like(mine).scatter(1, best.indices, best.values)
        return (left - z @ self.made.decoder[dead]).square().sum() / left.square().sum()


class _Checkpoint:
    """State of a training in one file; only of the same data and options."""

    def __init__(self, path: Path, run: _Training, notes: str) -> None:
        self.path, self._run, self._notes = path, run, notes

    def write(self, step: int) -> None:
        run = self._run
        tensors = {f"made.{name}": tensor for name, tensor in run.made.state_dict().items()}
        for name, parameter in run.made.named_parameters():
            for moment in MOMENTS:
                tensors[f"{moment}.{name}"] = run.optimiser.state[parameter][moment]
        save_tensors(self.path, tensors, {CHECKPOINT: self._notes, "step": str(step)})

    def resume(self) -> int:
        """Take up what was written, and return how many steps are done."""
        if not self.path.exists():
            return 0
        tensors, notes = load_tensors(self.path)
        if notes.get(CHECKPOINT) != self._notes:
            raise ValueError(
                f"{self.path} is the state of another training ({notes.get(CHECKPOINT)}, and this "
                f"is {self._notes}); give another file"
            )
        run = self._run
        run.made.load_state_dict({n: tensors[f"made.{n}"] for n in run.made.state_dict()})
        for name, parameter in run.made.named_parameters():
            run.optimiser.state[parameter] = {
                m: tensors[f"{m}.{name}"].to("cpu" if m == "step" else parameter.device)
                for m in MOMENTS
            }
        return int(notes["step"])


def _median(rows: Tensor, rounds: int = 20) -> Tensor:
    """The geometric median (C,) by Weiszfeld's iteration."""
    found = rows.mean(0)
    for _ in range(rounds):
        weight = 1 / (rows - found).norm(dim=1, keepdim=True).clamp_min(1e-6)
        found = (weight * rows).sum(0) / weight.sum()
    return found


def _digest(rows: Tensor) -> str:
    return hashlib.blake2b(rows.cpu().contiguous().numpy().data, digest_size=16).hexdigest()
