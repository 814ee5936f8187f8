"""`record`: the reference of a model, from held-out images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qact import checks
from qact.monitor.collect import Collector, Rows
from qact.monitor.reference import DRAWS, IMAGES, Reference, frames
from qact.monitor.window import Open
from qact.surgery import Where, batches, call, evaluating


def record(
    model: nn.Module,
    loader: Tensor | Iterable[Any],
    *,
    where: Where = None,
    positions: int | None = 16,
    images: int = IMAGES,
    draws: int = DRAWS,
    seed: int = 0,
) -> Reference:
    """Record what ``model`` sees when all is well.

    Args:
        model: any network; passed through in ``eval()`` without gradients.
        loader: batches of held-out images: on those it was trained on a network is surer of itself,
            and every window would seem to drift. Of pairs ``(input, labels)`` the labels serve to
            estimate the accuracy of later windows.
        where: which layers, as in :class:`qact.monitor.Monitor`.
        positions: of an image and channel that are sampled.
        images: whose own distribution functions are kept to calibrate alarms; what comes later
            counts in the contexts alone.
        draws: of sound windows, which calibrate alarms: rates down to ``1 / (1 + draws)``.
        seed: of the sampling and of the calibration.

    Raises:
        ValueError: fewer than 16 images, or something is not finite; labels do not fit the logits.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)).eval()
        >>> reference = record(model, torch.randn(256, 4))
        >>> reference.channels
        {'input': 4, '1': 8, 'logits': 8, 'confidence': 1}
    """
    kept: list[Rows] = []
    rest = Open({}, 0.0)
    confidence: list[Tensor] = []
    hits: list[Tensor] = []

    checks.integer("images", images, 1)

    def keep(rows: Rows, *_: int) -> None:
        nonlocal rest
        if sum(len(next(iter(part.values()))) for part in kept) < images and not rest.images:
            kept.append(rows)
            return
        if not rest.frames:
            rest.frames = frames(kept)
        rest.add(rows)

    collector = Collector(model, where, keep, positions=positions, seed=seed)
    with torch.no_grad(), evaluating(model):
        collector.attach()
        try:
            for batch in batches(loader, "loader"):
                output = call(model, batch)
                labels = _labels(batch)
                if labels is not None and isinstance(output, Tensor) and output.dim() == 2:
                    _fit(labels, output)
                    best = output.softmax(1).max(1)
                    confidence.append(best.values.float().cpu())
                    hits.append(best.indices.cpu() == labels.cpu())
        finally:
            collector.detach()
    later = rest.closed(0.0, "", "") if rest.size else None
    found = Reference.of(kept, later, positions=positions, draws=draws, seed=seed)
    if hits:
        found.confidence, found.hits = torch.cat(confidence), torch.cat(hits)
    return found


def _fit(labels: Tensor, logits: Tensor) -> None:
    """Refuse labels that are not one of the classes for each image."""
    count, classes = logits.shape
    if len(labels) != count:
        raise ValueError(f"a batch of {count} images has {len(labels)} labels; give one for each")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise ValueError(f"labels must be 0 to {classes - 1}, one of the logits, got {wrong[0]}")


def _labels(batch: Any) -> Tensor | None:
    second = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
    whole = isinstance(second, Tensor) and second.dim() == 1 and not second.is_floating_point()
    return second if whole else None
