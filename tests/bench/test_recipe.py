import json
from dataclasses import replace

import pytest

from qact.bench import Data, Model, Recipe, Shift, Training, quick
from qact.bench.errors import RecipeError


def test_a_recipe_survives_json():
    recipe = Recipe(data=Data("digits", 16, 100), seeds=(4, 2), activations=("qact",))
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_clean_images_are_one_condition():
    shift = Shift(corruptions=("fog", "snow"), severities=(0, 1, 5))
    expected = [("none", 0), ("fog", 1), ("fog", 5), ("snow", 1), ("snow", 5)]
    assert shift.conditions() == expected
    assert ("none", 0) not in Shift(severities=(3,)).conditions()


def test_quick_is_smaller_in_every_direction():
    full, small = Recipe(), quick(Recipe())
    assert len(small.cells()) * small.training.epochs < len(full.cells()) * full.training.epochs / 4
    assert len(small.shift.conditions()) < len(full.shift.conditions())


def test_the_full_bench_covers_what_the_issue_asks():
    recipe = Recipe()
    assert len(recipe.seeds) >= 3
    assert len(recipe.shift.corruptions) >= 6
    assert recipe.shift.severities == (0, 1, 2, 3, 4, 5)
    assert {"relu", "qact.paper", "qact"} <= set(recipe.activations)
    assert {"frozen", "batch-200"} <= set(recipe.shift.adaptations)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Model("vit"), "model: unknown model 'vit'; did you mean 'vit_tiny'"),
        (
            lambda: Model(placement="best"),
            "model: unknown placement 'best'; did you mean 'branches'",
        ),
        (
            lambda: Model("vit_tiny", normaliser="entmx15"),
            "model: unknown normaliser 'entmx15'; did you mean 'entmax15'",
        ),
        (lambda: Model(width_multiplier=0.0), r"width_multiplier=0.0 must be a positive number"),
        (lambda: Training(epochs=0), r"training: epochs=0 must be at least 1"),
        (lambda: Training(lr=-1.0), r"lr=-1.0 must be a positive number"),
        (lambda: Training(batch=1), r"batch=1 must be at least 2"),
        (lambda: Training(label_smoothing=1.0), r"\[0, 1\)"),
        (lambda: Training(optimizer="lion"), "unknown optimizer 'lion'; known: adamw, sgd"),
        (lambda: Shift(severities=(0, 6)), "severities=6 must be 0"),
        (lambda: Shift(corruptions=("fog", "fog")), r"corruptions=.*fog.* must be distinct"),
        (lambda: Shift(adaptations=("batch-0",)), "N >= 1, .*got 'batch-0'"),
        (lambda: Shift(adaptations=("tent",)), "got 'tent'"),
        (
            lambda: Shift(streams=("backwards",)),
            "unknown stream .backwards.; .* iid, sorted, .* gradual",
        ),
        (lambda: Recipe(seeds=()), r"seeds=\(\) must be distinct and at least one"),
        (lambda: Recipe(seeds=(-1,)), "seeds=-1 must be at least 0"),
        (lambda: Recipe(seeds=("a",)), "seeds='a' must be an integer"),
        (lambda: Recipe(seeds=(1.5,)), r"seeds=1.5 must be an integer"),
        (lambda: Recipe(seeds=([1],)), r"seeds=\(\[1\],\) must be distinct"),
        (lambda: Shift(seed="a"), "shift: seed='a' must be an integer"),
        (lambda: Recipe.from_dict({"data": {}}), "not a recipe"),
        (lambda: Recipe.from_dict(Recipe().as_dict() | {"data": {"x": 1}}), "not a recipe"),
    ],
)
def test_impossible_recipes_are_refused(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


def test_what_decides_the_weights_is_apart_from_what_is_measured():
    recipe = Recipe()
    assert replace(recipe, seeds=(9,), shift=Shift(("fog",))).trained() == recipe.trained()
    assert replace(recipe, training=Training(epochs=1)).trained() != recipe.trained()
