"""``qact bench --scores``: how well every score tells outliers, for every activation.

The networks are those of the bench, trained and stored in its folder. Scores that one forward pass
is enough for are fitted on training images; the clean test images are the inliers. Outliers need no
data: noise with a random spectrum, and the test images cut into quarters that are shuffled, which
have the same pixels. Other data sets are outliers by name, resized to the images of the bench.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from qact.bench.data import Inputs, load_inputs
from qact.bench.recipe.recipe import Data, Recipe, network
from qact.bench.recipe.rivals import rival
from qact.bench.runner.grid import place_of
from qact.bench.store.files import write_atomically
from qact.bench.train.network import train_cell
from qact.scores import Panel, detection

BATCH = 100

Row = dict[str, Any]


def textures(count: int, channels: int, side: int, seed: int = 0) -> Tensor:
    """Noise (count, channels, side, side) in [0, 1] with a spectrum of ``1/f^b``.

    ``b`` is uniform in [0, 2.5], and so is in [0, 1] the share that the channels have in common.
    """
    draw = torch.Generator().manual_seed(seed)
    frequency = torch.fft.fftfreq(side)[:, None].hypot(torch.fft.rfftfreq(side))
    exponent = 2.5 * torch.rand(count, 1, 1, 1, generator=draw)
    shared = torch.rand(count, 1, 1, 1, generator=draw)
    white = torch.randn(count, channels, side, side, generator=draw)
    white = shared * white[:, :1] + (1 - shared) * white
    spectrum = torch.fft.rfft2(white) / frequency.clamp(min=1 / side) ** exponent
    noise = torch.fft.irfft2(spectrum, s=(side, side))
    noise = (noise - noise.mean((1, 2, 3), keepdim=True)) / noise.std((1, 2, 3), keepdim=True)
    level = torch.rand(count, channels, 1, 1, generator=draw)
    return (level + 0.25 * noise).clamp(0, 1)


def quarters(images: Tensor) -> Tensor:
    """Images (N, C, H, W) with their four quarters turned by one place: no edge is where it was."""
    h, w = images.shape[2] // 2, images.shape[3] // 2
    top, bottom = images[:, :, :h], images[:, :, h : 2 * h]
    parts = (bottom[..., :w], top[..., :w], bottom[..., w : 2 * w], top[..., w : 2 * w])
    upper, lower = torch.cat(parts[:2], 3), torch.cat(parts[2:], 3)
    return interpolate(torch.cat([upper, lower], 2), images.shape[2:])


def outliers(inputs: Inputs, names: Sequence[str]) -> dict[str, Tensor]:
    """Normalised outliers by name, as many as there are test images at most."""
    images = inputs.test_images
    count, channels, side = len(images), images.shape[1], images.shape[2]
    found = {"textures": textures(count, channels, side), "quarters": quarters(images)}
    for name in names:
        other = load_inputs(Data(name)).test_images[:count]
        if other.shape[1] != channels:  # grey as colour, colour as its mean
            other = other.mean(1, keepdim=True).expand(-1, channels, -1, -1)
        found[name] = interpolate(
            other, images.shape[2:], mode="bilinear", align_corners=False, antialias=True
        )
    return {name: inputs.normalised(x) for name, x in found.items()}


def measure_scores(
    recipe: Recipe,
    folder: Path,
    names: Sequence[str] = (),
    tell: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Return one row per network, score and set of outliers, and write ``folder/scores.json``.

    Rows that the file has already are kept.
    """
    path = folder / "scores.json"
    rows: list[Row] = json.loads(path.read_text())["rows"] if path.exists() else []
    inputs = load_inputs(recipe.data)
    known = {row["outliers"] for row in rows}
    strange = outliers(inputs, names)
    done = {(r["activation"], r["seed"]) for r in rows if set(strange) <= known}
    for name, loss, seed in recipe.cells():
        of = recipe.of_loss(loss)
        label = network(name, of.training.loss)
        if (label, seed) in done:
            continue
        place = place_of(folder, name, of.training.loss, seed)
        model = train_cell(of, rival(name), seed, inputs, place, lambda n: None).model
        rows = [row for row in rows if (row["activation"], row["seed"]) != (label, seed)]
        rows += measured(model, label, seed, inputs, strange)
        text = json.dumps({"recipe": recipe.trained(), "rows": rows}, indent=1)
        write_atomically(path, text.encode())
        tell(f"{label}/{seed}")
    return rows


def measured(
    model: nn.Module, label: str, seed: int, inputs: Inputs, strange: dict[str, Tensor]
) -> list[Row]:
    """Rows of one network."""
    images, targets = inputs.train
    panel = Panel().fit(model, list(zip(images.split(BATCH), targets.split(BATCH), strict=True)))

    def scored(x: Tensor) -> dict[str, Tensor]:
        parts = [panel.score(batch) for batch in x.split(BATCH)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    inside = scored(inputs.normalised(inputs.test_images))
    rows = []
    for name, x in strange.items():
        for score, values in scored(x).items():
            found = asdict(detection(inside[score], values))
            rows.append(
                {"activation": label, "seed": seed, "score": score, "outliers": name, **found}
            )
    return rows


def by_score(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Mean AUROC over seeds per score and activation, the best mean over activations first."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        found.setdefault(row["score"], {}).setdefault(row["activation"], []).append(row["auroc"])
    means = {name: {a: fmean(v) for a, v in own.items()} for name, own in found.items()}
    return dict(sorted(means.items(), key=lambda item: -fmean(item[1].values())))
