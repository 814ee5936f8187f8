"""Stored statistics: the running mean and variance of a BatchNorm, the context of a QAct layer.

One way to each of the four things that are done with them:

- *read*: `running`, the mean and variance that a norm stores (:class:`qact.Context` is the same
  for the whole distribution).
- *lend*: `lend`, other statistics than the stored ones, for a block and for one thread.
- *mix* and *follow*: `rules`, by which a norm joins its batch to what it has stored, or moves what
  it has stored by an exponential moving average; a context has ``merge`` and ``follow``.
- *compare*: `distance` of two contexts, `drift` of all those of a model.
"""

from qact.statistics.distance import kolmogorov, wasserstein
from qact.statistics.drift import Drift, LayerDrift
from qact.statistics.lend import adapting, lend

__all__ = [
    "Drift",
    "LayerDrift",
    "adapting",
    "kolmogorov",
    "lend",
    "wasserstein",
]
