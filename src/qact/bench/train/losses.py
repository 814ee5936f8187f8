"""What a network is trained on: a loss of its logits, of its embedding, or of both by its head.

A loss of embeddings shapes the embedding alone. The head is trained beside it by cross-entropy on
the *detached* embedding: a linear probe that sends no gradient back, so that every loss is measured
through the same kind of head. (The paper fits its last layer on the frozen embedding afterwards,
arXiv 2405.11573v1, section 4; here it is fitted on the way, in the same epochs.) A loss that learns
class vectors of its own takes the place of the network's last layer.
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

    Raises:
        RecipeError: there is no such loss, or it is not one of images and labels.

    Example:
        >>> import torch
        >>> from qact.models import resnet_small
        >>> images, labels = torch.randn(8, 1, 16, 16), torch.arange(8) % 2
        >>> objective("watershed")(resnet_small(), images, labels).shape
        torch.Size([])
    """
    if name not in LOSSES:
        raise RecipeError(f"training.loss must be one of {', '.join(LOSSES)}; got {name!r}")
    kind = losses.entry(name).of
    if kind == "values":
        raise RecipeError(f"loss {name!r} is not one of images and labels; use it in your own loop")
    if kind == "head":
        return lambda model, x, y: model.head(model.embed(x), y)  # type: ignore[operator]
    entropy = losses.CrossEntropy(label_smoothing)
    # With their defaults; random seeds of the watershed follow (seed, epoch).
    loss = entropy if name == "cross_entropy" else losses.create(name)
    if kind == "logits":
        return lambda model, x, y: loss(model(x), y)
    if kind == "weights":
        return lambda model, x, y: entropy(model(x), y) + loss(model)

    def with_probe(model: Any, x: Tensor, y: Tensor) -> Tensor:
        _check_embeds(name, model)
        embedding = model.embed(x)
        return loss(embedding, y) + entropy(model.head(embedding.detach()), y)

    return with_probe


def headed(model: Any, name: str) -> nn.Module:
    """Return a network whose last layer is the loss's, if the loss learns class vectors.

    Example:
        >>> from qact.models import resnet_small
        >>> headed(resnet_small(), "cosface").head
        CosFace(32, 10, scale=64.0, margin=0.35)
    """
    if name in LOSSES and losses.entry(name).of == "head":
        _check_embeds(name, model)
        model.head = losses.create(name, model.head.in_features, model.head.out_features)
    network: nn.Module = model
    return network


def _check_embeds(name: str, model: nn.Module) -> None:
    if not (hasattr(model, "embed") and hasattr(model, "head")):
        raise RecipeError(
            f"loss {name!r} needs a network with embed() and head, {type(model).__name__} lacks"
            " them; use cross_entropy"
        )
