"""The bench: recipe, train, adapt, evaluate, report; every rival is measured the same way."""

from qact.extras import needed

with needed("qact.bench", "bench"):
    from qact.bench.recipe.presets import quick
    from qact.bench.recipe.recipe import Data, Model, Recipe
    from qact.bench.recipe.rivals import Rival, list_rivals, register, rival
    from qact.bench.recipe.shift import Shift
    from qact.bench.recipe.training import Training
    from qact.bench.report.summary import Stat, Summary
    from qact.bench.runner.bench import run
    from qact.bench.store.results import Results, load_results

__all__ = [
    "Data",
    "Model",
    "Recipe",
    "Results",
    "Rival",
    "Shift",
    "Stat",
    "Summary",
    "Training",
    "list_rivals",
    "load_results",
    "quick",
    "register",
    "rival",
    "run",
]
