"""One trained network measured: adaptations, streams, metrics, costs, faults."""

from qact.bench.measure.adapt import predict
from qact.bench.measure.evaluate import evaluate_network
from qact.bench.measure.faults import measure_faults
from qact.bench.measure.metrics import measure

__all__ = [
    "evaluate_network",
    "measure",
    "measure_faults",
    "predict",
]
