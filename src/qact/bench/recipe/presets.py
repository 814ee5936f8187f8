"""Recipes by name: how to train (presets), the quick bench, and the full adaptation study."""

from __future__ import annotations

from dataclasses import replace

from qact import adapt
from qact.bench.errors import RecipeError
from qact.bench.recipe.recipe import Recipe
from qact.bench.recipe.shift import STREAMS, WORST, Shift
from qact.bench.recipe.training import Training
from qact.registry import Entry, Registry

BATCH, SIZES = 64, (16, 256)
SMALL, FEW = (1, 4), 64  # batches below 16, and the images that they get
SLOW = {"cotta": "cotta:views=4"}  # 32 views in its paper

PRESETS = Registry("preset", Entry, error=RecipeError)


def preset(name: str) -> Training:
    """Return the training recipe of that name.

    Example:
        >>> preset("modern").schedule
        'cosine'
    """
    return PRESETS[name].make()


@PRESETS.register("digits", paper="ours, small and quick, for the embedded digits")
def digits() -> Training:
    """Return the defaults."""
    return Training()


@PRESETS.register("paper", paper="arXiv 2405.11573v1, appendix B")
def paper() -> Training:
    """Adam with a plateau schedule on validation accuracy and early stopping.

    The paper states neither batch nor epochs nor augmentation; those here are ours, as is the
    patience, ten epochs longer than the schedule's.
    """
    return Training(
        epochs=200,
        batch=128,
        lr=1e-3,
        weight_decay=0.0,
        schedule="plateau",
        select="best",
        patience=60,
    )


@PRESETS.register("authors", paper="the last state of the repository of arXiv 2405.11573")
def authors() -> Training:
    """Adam, a tenth of the rate after 1/2, 3/4 and 7/8 of the epochs, crops, flips and AugMix.

    Theirs has operations that overlap with the test corruptions, ours has not.
    """
    return Training(
        epochs=400,
        batch=128,
        lr=5e-3,
        weight_decay=0.0,
        schedule="multistep",
        augmentation="crop_flip_augmix",
    )


@PRESETS.register("modern", paper="what networks of this size are trained with today")
def modern() -> Training:
    """SGD with a cosine, warm-up, averaged weights, label smoothing, bfloat16, crops and flips."""
    return Training(
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
    )


@PRESETS.register("fast", paper="the recipe of the full-size result, for a GPU")
def fast() -> Training:
    """SGD, up for a fifth of the steps and down again, bfloat16, crops and flips: 24 epochs."""
    return Training(
        epochs=24,
        batch=512,
        optimizer="sgd",
        lr=0.4,
        weight_decay=5e-4,
        schedule="triangle",
        warmup=4.8,
        precision="bfloat16",
        augmentation="crop_flip",
    )


def quick(recipe: Recipe) -> Recipe:
    """Return the half-minute version: one seed, few epochs, half of everything measured."""
    shift = replace(
        recipe.shift,
        corruptions=recipe.shift.corruptions[::2],  # still one of each family
        severities=(0, 3, 5),
        adaptations=("frozen", "batch-200"),
    )
    return replace(
        recipe,
        training=replace(recipe.training, epochs=6),
        shift=shift,
        seeds=recipe.seeds[:1],
    )


def full(recipe: Recipe, images: int = 256) -> Recipe:
    """Return a recipe with the study besides; see :func:`study`."""
    data = recipe.data
    images = min(n for n in (images, data.limit, data.test_limit) if n is not None)
    return replace(recipe, further=(*recipe.further, *study(recipe.shift, images)))


def study(shift: Shift, images: int = 256) -> tuple[Shift, ...]:
    """Return the shifts of the study: nine streams at batch 64, and i.i.d. ones of 1, 4, 16, 256.

    Every second corruption of ``shift`` at severity 5, and the first test images alone. Methods
    have their published settings, but CoTTA 4 views instead of 32.

    Example:
        >>> [(part.streams[:2], part.adaptations[-1], part.images) for part in study(Shift())]
        [(('iid', 'sorted'), 'tent-64', 256), (('iid',), 'tent-256', 256), (('iid',), 'tent-4', 64)]
    """
    worst = replace(shift, corruptions=shift.corruptions[::2], severities=(WORST,), images=images)
    few = min(FEW, images)
    sizes = tuple(size for size in SIZES if size <= images)
    parts = [replace(worst, streams=STREAMS, adaptations=every_method(min(BATCH, images)))]
    if sizes:
        parts.append(replace(worst, streams=("iid",), adaptations=every_method(*sizes)))
    small = tuple(size for size in SMALL if size <= few)
    parts.append(replace(worst, streams=("iid",), adaptations=every_method(*small), images=few))
    return tuple(parts)


def every_method(*sizes: int) -> tuple[str, ...]:
    """Return all registered methods with each batch size."""
    return tuple(f"{SLOW.get(name, name)}-{size}" for size in sizes for name in adapt.methods())
