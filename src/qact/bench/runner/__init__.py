"""The grid of a recipe run to its end: cells, processes, progress."""
