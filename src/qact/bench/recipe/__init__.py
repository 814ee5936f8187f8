"""What is trained and measured: the recipe, its parts, its files, and the rows it asks for."""

from qact.bench.recipe.presets import PRESETS, full, preset, quick, study
from qact.bench.recipe.recipe import Data, Model, Recipe, network
from qact.bench.recipe.rivals import Rival, list_rivals, register, rival
from qact.bench.recipe.shift import Shift
from qact.bench.recipe.toml import load_recipe, recipe_of
from qact.bench.recipe.training import Training

__all__ = [
    "PRESETS",
    "Data",
    "Model",
    "Recipe",
    "Rival",
    "Shift",
    "Training",
    "full",
    "list_rivals",
    "load_recipe",
    "network",
    "preset",
    "quick",
    "recipe_of",
    "register",
    "rival",
    "study",
]
