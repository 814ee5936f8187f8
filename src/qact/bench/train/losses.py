"""What a network is trained on: cross-entropy of its logits, or a loss of its embedding.

A loss of embeddings shapes the embedding alone. The head is trained beside it by cross-entropy on
the *detached* embedding: a linear probe that sends no gradient back, so that every loss is measured
through the same kind of head. (The paper fits its last layer on the frozen embedding afterwards,
arXiv 2405.11573v1, section 4; here it is fitted on the way, in the same epochs.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from qact import losses
from qact.bench.errors import RecipeError
from qact.losses.registry import LOSSES  # ours, and what users register

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]


def objective(name: str, label_smoothing: float = 0.0) -> Objective:
    """Return ``f(model, images, labels)``, the scalar that training minimises.

    Example:
        >>> import torch
        >>> from qact.models import resnet_small
        >>> images, labels = torch.randn(8, 1, 16, 16), torch.arange(8) % 2
        >>> objective("watershed")(resnet_small(), images, labels).shape
        torch.Size([])
    """
    if name not in LOSSES:
        raise RecipeError(f"training.loss must be one of {', '.join(LOSSES)}; got {name!r}")
    head_loss = losses.CrossEntropy(label_smoothing)
    # With their defaults; random seeds of the watershed follow (seed, epoch).
    loss = head_loss if name == "cross_entropy" else losses.create(name)
    if losses.entry(name).of == "logits":
        return lambda model, x, y: loss(model(x), y)

    def with_probe(model: Any, x: Tensor, y: Tensor) -> Tensor:
        if not (hasattr(model, "embed") and hasattr(model, "head")):
            raise RecipeError(
                f"loss {name!r} needs a network with embed() and head, {type(model).__name__} lacks"
                " them; use cross_entropy"
            )
        embedding = model.embed(x)
        return loss(embedding, y) + head_loss(model.head(embedding.detach()), y)

    return with_probe
