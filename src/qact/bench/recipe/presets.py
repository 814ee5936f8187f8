"""Training recipes by name: the bench's own, the paper's, the authors' code's, and a modern one.

``digits`` is small and quick and serves the embedded digits. ``paper`` is appendix B of arXiv
2405.11573v1: Adam with a plateau schedule on validation accuracy and early stopping. It states
neither batch nor epochs nor augmentation; those here are ours (128, at most 200, none), as is the
patience, ten epochs longer than the schedule's. ``authors`` is the last state of the authors'
repository: Adam, a tenth of the rate after 1/2, 3/4 and 7/8 of 400 epochs, crops, flips and AugMix
(theirs with operations that overlap with the test corruptions, ours without).
``modern`` is what networks of this size are trained with today.
"""

from __future__ import annotations

from qact.bench.errors import RecipeError
from qact.bench.recipe.training import Training

PRESETS: dict[str, Training] = {
    "digits": Training(),
    "paper": Training(
        epochs=200,
        batch=128,
        lr=1e-3,
        weight_decay=0.0,
        schedule="plateau",
        select="best",
        patience=60,
    ),
    "authors": Training(
        epochs=400,
        batch=128,
        lr=5e-3,
        weight_decay=0.0,
        schedule="multistep",
        augmentation="crop_flip_augmix",
    ),
    "modern": Training(
        epochs=100,
        batch=128,
        optimizer="sgd",
        lr=0.1,
        weight_decay=5e-4,
        label_smoothing=0.1,
        schedule="cosine",
        warmup=5.0,
        ema=0.999,
        precision="bfloat16",
        augmentation="crop_flip",
    ),
}


def preset(name: str) -> Training:
    """Return the training recipe of that name.

    Example:
        >>> preset("modern").schedule
        'cosine'
    """
    if name not in PRESETS:
        raise RecipeError(f"preset must be one of {', '.join(PRESETS)}; got {name!r}")
    return PRESETS[name]
