import json

import pytest

from qact.bench import Recipe, Training
from qact.bench.errors import RecipeError
from qact.bench.recipe.presets import preset
from qact.bench.recipe.toml import load_recipe, recipe_of

WHOLE = """
activations = ["relu", "qact"]
seeds = [3, 1]

[data]
name = "cifar10"
limit = 2000

[model]
name = "resnet18"
width_multiplier = 0.25

[training]
preset = "modern"
epochs = 7

[shift]
severities = [0, 5]
corruptions = ["fog"]
"""


def written(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_a_file_says_what_it_says_and_leaves_the_rest(tmp_path):
    recipe = load_recipe(written(tmp_path, WHOLE))
    assert (recipe.activations, recipe.seeds) == (("relu", "qact"), (3, 1))
    assert (recipe.data.name, recipe.data.limit, recipe.data.size) == ("cifar10", 2000, None)
    assert (recipe.model.name, recipe.model.width_multiplier) == ("resnet18", 0.25)
    assert (recipe.training.epochs, recipe.training.ema) == (7, preset("modern").ema)
    assert recipe.shift.corruptions == ("fog",)
    assert recipe.shift.adaptations == Recipe().shift.adaptations


def test_flags_beat_the_preset_and_the_preset_beats_the_file(tmp_path):
    path = written(tmp_path, '[training]\nepochs = 3\nschedule = "cosine"\n')
    flags = {"training.lr": 0.5, "training.batch": None, "seeds": (4,), "activations": []}
    recipe = recipe_of(Recipe(), path, "paper", flags)
    assert recipe.training == Training(
        **{**vars(preset("paper")), "lr": 0.5}
    )  # the file's training is the preset's now
    assert recipe.seeds == (4,)
    assert recipe_of(Recipe(), path, None, flags).training.schedule == "cosine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = [", "recipe.toml is not TOML"),
        ("epoch = 3", "unknown epoch; known: data, .* shift, further, activations, losses, seeds"),
        ("[training]\nepoch = 3", r"unknown training\.epoch; known: epochs, batch"),
        ("[data]\npreset = 'paper'", r"unknown data\.preset; known: name, size, limit"),
        ("training = 3", r"training must be a section \[training\], got 3"),
        ("seeds = 3", "seeds must be a list, got 3"),
        ("[shift]\nseverities = 5", r"shift\.severities must be a list, got 5"),
        (
            "[training]\npreset = 'best'",
            "unknown preset 'best'; did you mean 'fast'. known: authors, digits, fast, modern",
        ),
        ("[training]\nepochs = 'many'", r"training: epochs='many' must be an integer"),
        ("[training]\nepochs = 1.5", r"training: epochs=1.5 must be an integer"),
        ("[training]\nlr = nan", r"training: lr=nan must be a positive number"),
        ("[training]\nlr = true", r"training: lr=True must be a positive number"),
        ("[training]\nema = 1.0", r"training: ema=1.0 must be a number in \[0, 1\)"),
        ("[training]\ncompile = 1", r"training: compile=1 must be True or False"),
        (
            "[training]\nwarmup = 2",
            "warmup is for cosine, multistep, constant and triangle; got 2 with",
        ),
        ("[training]\nschedule='cosine'\nwarmup = 15", "shorter than the 15 epochs, got 15"),
        ("[training]\nmomentum=0.0\noptimizer='sgd'", "nesterov needs a momentum above 0"),
        (
            "[training]\nschedule = 'linear'",
            "unknown schedule .*known: one_cycle, cosine, multistep, plateau, constant",
        ),
        (
            "[training]\naugmentation = 'mixup'",
            "training: unknown augmentation 'mixup'; did you mean",
        ),
        ("[training]\nselect = 'test'", "training: unknown select 'test'; did you mean 'best'"),
        ("[training]\nweight_decay = -1", r"weight_decay=-1 must be a number in \[0, inf\)"),
        ("[training]\npatience = -1", r"patience=-1 must be at least 0"),
    ],
)
def test_mistakes_name_the_file_the_value_and_what_would_be_right(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe(written(tmp_path, text))
    assert "recipe.toml" in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.toml"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(tmp_path)


def test_the_presets_are_what_the_sources_say():
    paper, authors = preset("paper"), preset("authors")
    assert (paper.optimizer, paper.lr, paper.weight_decay) == ("adamw", 1e-3, 0.0)
    assert (paper.schedule, paper.select) == ("plateau", "best")
    assert (authors.epochs, authors.lr, authors.batch) == (400, 5e-3, 128)
    assert (authors.schedule, authors.augmentation) == ("multistep", "crop_flip_augmix")
    assert preset("digits") == Training()


def test_the_identity_of_what_was_trained_before_is_unchanged():
    assert Training().identity() == {
        "epochs": 15,
        "batch": 50,
        "optimizer": "adamw",
        "lr": 0.01,
        "weight_decay": 0.01,
        "label_smoothing": 0.0,
        "loss": "cross_entropy",
    }
    assert Training(ema=0.9).identity()["ema"] == 0.9


def test_streams_losses_and_further_conditions_are_read(tmp_path):
    text = """
    losses = ["cross_entropy", "watershed"]
    [shift]
    streams = ["iid", "mixed"]
    seed = 3
    [[further]]
    adaptations = ["tent-4"]
    images = 64
    """
    recipe = load_recipe(written(tmp_path, text))
    assert recipe.every_loss() == ("cross_entropy", "watershed")
    assert recipe.shift.streams == ("iid", "mixed")
    assert [(s.adaptations, s.images, s.seed) for s in recipe.further] == [(("tent-4",), 64, 3)]
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_the_old_name_of_streams_is_read(tmp_path):
    assert load_recipe(written(tmp_path, "[shift]\nstream = 'sorted'")).shift.streams == ("sorted",)
    for text, message in (
        ("[shift]\nstream = 'backwards'", "unknown stream 'backwards'"),
        ("[shift]\nstream = 'iid'\nstreams = ['iid']", "old name of shift.streams"),
        ("[[further]]\nstream = 3", "unknown stream 3; "),
        ("further = 3", "further must be a list, got 3"),
        ("losses = ['hinge']", "unknown loss 'hinge'"),
        ("[[further]]\nseed = 1", "all shifts of a recipe need one seed, 0"),
    ):
        with pytest.raises(RecipeError, match=message):
            load_recipe(written(tmp_path, text))
