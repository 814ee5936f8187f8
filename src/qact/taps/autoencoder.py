"""A sparse autoencoder of what passes a place: features of which few are active at a time.

Gao et al. 2024, arXiv 2406.04093: the k largest features alone are kept, and an auxiliary loss lets
those that never fire model what the others have left over.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from qact import checks
from qact.activations.sparse import topk
from qact.files import load_tensors, save_tensors
from qact.taps.steering import same_model
from qact.vectors import unit_of, unit_vectors

FORMAT = "qact.autoencoder.1"


class Autoencoder(nn.Module):
    """``z = TopK(W (x / s - c) + b)``, ``x' = s (V z + c)`` (arXiv 2406.04093, eq. 1 to 3).

    Values are any ``(..., C)``, channels at the end; ``s`` is one number, the scale of the data.
    A call reconstructs, so that ``qact.tap(model, place).change(autoencoder, last=True)`` puts its
    reconstruction in the place of the activations. Rows of ``decoder`` are directions of features,
    of length 1: ``qact.steer(model, autoencoder.decoder[3], place)``.

    Args:
        channels: ``C``.
        latents: how many features.
        k: how many are active at a time.
        where: the place that it was trained on, if any.
        fingerprint: of the model that it was trained on.

    Example:
        >>> made = Autoencoder(8, 32, k=4)
        >>> z = made.encode(torch.randn(5, 8))
        >>> z.shape, bool(((z != 0).sum(1) <= 4).all())
        (torch.Size([5, 32]), True)
    """

    scale: Tensor
    unused: Tensor

    def __init__(
        self,
        channels: int,
        latents: int,
        k: int = 8,
        *,
        where: str | None = None,
        fingerprint: str | None = None,
    ) -> None:
        super().__init__()
        self.k = checks.integer("k", k, 1)
        checks.integer("channels", channels, 1)
        if checks.integer("latents", latents, 1) < k:
            raise ValueError(f"latents={latents} must be at least k={k}")
        self.where, self.fingerprint = where, fingerprint
        self.encoder = nn.Linear(channels, latents)
        self.decoder = nn.Parameter(unit_vectors(torch.randn(latents, channels)))
        self.center = nn.Parameter(torch.zeros(channels))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("unused", torch.zeros(latents, dtype=torch.int64))
        with (
            torch.no_grad()
        ):  # both point the same way at the start: few features die (section 2.4)
            self.encoder.weight.copy_(self.decoder)
            self.encoder.bias.zero_()

    def scores(self, x: Tensor) -> Tensor:
        """What features are chosen by, (..., latents)."""
        return self.encoder(x / self.scale - self.center)

    def encode(self, x: Tensor) -> Tensor:
        """The features of values (..., C): (..., latents), at most ``k`` of them positive."""
        return topk(self.scores(x), self.k, dim=-1)

    def decode(self, z: Tensor) -> Tensor:
        """Values (..., C) of features (..., latents)."""
        return (z @ self.decoder + self.center) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of ``x``."""
        return self.decode(self.encode(x))

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        latents, channels = self.decoder.shape
        return f"{channels}, latents={latents}, k={self.k}, where={self.where!r}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as safetensors, atomically; needs the extra ``bench``."""
        facts = {"k": self.k, "where": self.where, "fingerprint": self.fingerprint}
        save_tensors(Path(path), self.state_dict(), {FORMAT: json.dumps(facts)})

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: nn.Module | None = None) -> Autoencoder:
        """Read what :meth:`save` has written.

        Raises:
            DamagedFileError: the file cannot be read. ValueError: it is no autoencoder, or was
                trained on another model than ``model``.
        """
        tensors, notes = load_tensors(Path(path))
        if FORMAT not in notes:
            raise ValueError(f"{path} holds tensors, but no autoencoder")
        latents, channels = tensors["decoder"].shape
        made = cls(channels, latents, **json.loads(notes[FORMAT]))
        made.load_state_dict(tensors)
        made.check(model)
        return made

    def check(self, model: nn.Module | None) -> None:
        """Refuse a model that it was not trained on."""
        same_model("autoencoder", self.fingerprint, model)


@dataclass(frozen=True)
class Fit:
    """How well an autoencoder stands for some values.

    Args:
        unexplained: the share of the variance that reconstruction leaves, 0 is perfect.
        active: features that are not zero, mean over values.
        density: of each feature, the share of values at which it is active, (latents,).
    """

    unexplained: float
    active: float
    density: Tensor

    @property
    def dead(self) -> int:
        """How many features none of the values has activated."""
        return int((self.density == 0).sum())

    def __str__(self) -> str:
        return (
            f"{100 * self.unexplained:.1f}% of the variance unexplained, {self.active:.1f} features"
            f" active, {self.dead} of {len(self.density)} dead"
        )


@torch.no_grad()
def fit_of(autoencoder: Autoencoder, values: Tensor) -> Fit:
    """Measure an autoencoder on values (..., C)."""
    rows = rows_of(values)
    z = autoencoder.encode(rows)
    apart = rows - rows.mean(0)
    left = (rows - autoencoder.decode(z)) / unit_of(apart)
    return Fit(
        float(left.square().sum() / (apart / unit_of(apart)).square().sum()),
        float((z != 0).sum(1).double().mean()),
        (z != 0).double().mean(0),
    )


def rows_of(values: Tensor) -> Tensor:
    """Values (..., C) as (n, C), in float32; refuse what is not finite."""
    checks.tensors(values=values)
    if values.dim() < 2 or not values.numel():
        raise ValueError(f"values of shape {tuple(values.shape)} must be (..., C), and some")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"values hold {values[~torch.isfinite(values)][0].item()}")
    return values.detach().float().flatten(0, -2)
