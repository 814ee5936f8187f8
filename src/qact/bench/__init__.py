"""The bench: recipe, train, adapt, evaluate, report; every rival is measured the same way."""

from qact.bench.recipe import Recipe, quick
from qact.bench.results import Results, load_results
from qact.bench.rivals import Rival, list_rivals, register, rival
from qact.bench.runner import run
from qact.bench.shift import Shift
from qact.bench.stat import Stat
from qact.bench.subject import Data, Model
from qact.bench.summary import Summary
from qact.bench.training import Training

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
