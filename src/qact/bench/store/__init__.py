"""What is kept: results.json, results.csv, atomic files, benches joined."""

from qact.bench.store.join import side_by_side
from qact.bench.store.results import Results, load_results

__all__ = [
    "Results",
    "load_results",
    "side_by_side",
]
