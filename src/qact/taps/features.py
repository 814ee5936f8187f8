"""Features of a sparse autoencoder, named by the inputs that activate them most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.surgery import Where, call, evaluating
from qact.surgery import batches as batches_of
from qact.taps.autoencoder import Autoencoder
from qact.taps.taps import tap


@dataclass(frozen=True)
class Feature:
    """A feature and the inputs that activate it most, the strongest first.

    Args:
        index: of the feature.
        density: the share of positions at which it is active.
        inputs: which of the inputs.
        positions: where in each, counted along the flattened positions.
        values: how strongly.
        labels: of these inputs, if labels were given.
    """

    index: int
    density: float
    inputs: tuple[int, ...]
    positions: tuple[int, ...]
    values: tuple[float, ...]
    labels: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """What its inputs are: labels by how many there are, or else the inputs themselves."""
        if not self.inputs:
            return "dead"
        if not self.labels:
            return "inputs " + ", ".join(map(str, self.inputs))
        return ", ".join(f"{label} ({n})" for label, n in Counter(self.labels).most_common())


@torch.no_grad()
def features(
    autoencoder: Autoencoder,
    model: nn.Module,
    inputs: Any,
    *,
    labels: Any = None,
    where: Where = None,
    top: int = 8,
) -> list[Feature]:
    """Name each feature by the inputs that activate it most.

    Args:
        autoencoder: as :func:`autoencode` has trained it.
        model: the model that it was trained on.
        inputs: batches.
        labels: of all inputs, in order, to name features by; None names the inputs.
        where: the place; None is the one that it was trained on.
        top: inputs per feature.

    Raises:
        ValueError: the model is another, or no place is known.
    """
    autoencoder.check(model)
    where = autoencoder.where if where is None else where
    if where is None:
        raise ValueError("where=None: this autoencoder was trained on no place; name one")
    latents = len(autoencoder.decoder)
    kept = _Best(latents, checks.integer("top", top, 1))
    for values in _passing(model, where, inputs):
        kept.add(autoencoder.encode(values))
    return kept.features(labels)


def by_position(z: Tensor) -> Tensor:
    """Values (N, ..., C) as (N, positions, C)."""
    return z.flatten(1, -2) if z.dim() > 2 else z[:, None]


def _passing(model: nn.Module, where: Where, inputs: Any) -> Iterator[Tensor]:
    """What passes a place, (N, positions, C), batch by batch."""
    for batch in batches_of(inputs):
        reading = tap(model, where).read(by_position)
        with evaluating(model), reading:
            call(model, batch)
        yield reading.value


class _Best:
    """The strongest inputs of each feature so far."""

    def __init__(self, latents: int, top: int) -> None:
        self._top, self._inputs, self._count = top, 0, 0
        self._values = torch.zeros(0, latents, dtype=torch.float32)
        self._index = torch.zeros(2, 0, latents, dtype=torch.int64)  # input and position
        self._active = torch.zeros(latents, dtype=torch.int64)

    def add(self, z: Tensor) -> None:
        """Features (N, positions, latents) of further inputs."""
        z = z.cpu()
        self._active += (z != 0).sum((0, 1))
        best, position = z.max(1)
        index = torch.arange(self._inputs, self._inputs + len(z))[:, None].expand_as(position)
        self._inputs, self._count = self._inputs + len(z), self._count + z.shape[0] * z.shape[1]
        values = torch.cat([self._values, best])
        places = torch.cat([self._index, torch.stack([index, position])], 1)
        # Stable, so that of equal ones the first stays, in batches of any size.
        order = values.sort(dim=0, descending=True, stable=True).indices[: self._top]
        self._values = values.gather(0, order)
        self._index = places.gather(1, order.expand(2, -1, -1))

    def features(self, labels: Any) -> list[Feature]:
        found = []
        for latent in range(len(self._active)):
            count = int((self._values[:, latent] > 0).sum())
            inputs, positions = self._index[:, :count, latent].tolist()
            named = () if labels is None else tuple(_plain(labels[i]) for i in inputs)
            density = float(self._active[latent]) / max(self._count, 1)
            values = tuple(self._values[:count, latent].tolist())
            found.append(Feature(latent, density, tuple(inputs), tuple(positions), values, named))
        return found


def _plain(label: Any) -> Any:
    return label.item() if hasattr(label, "item") else label
