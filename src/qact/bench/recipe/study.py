"""The adaptation study: every method of :mod:`qact.adapt` on every stream, on trained networks."""

from __future__ import annotations

from dataclasses import replace

from qact import adapt
from qact.bench.recipe.recipe import Recipe
from qact.bench.recipe.shift import STREAMS, WORST, Shift

BATCH, SIZES = 64, (16, 256)
SMALL, FEW = (1, 4), 64  # batches below 16, and the images that they get
SLOW = {"cotta": "cotta:views=4"}  # 32 views in its paper


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
