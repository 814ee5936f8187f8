"""One trained network measured: adaptations, streams, metrics, costs, faults."""
