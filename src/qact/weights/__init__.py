"""Maps from scores to weights: softmax and what stands in its place, by one signature.

``weights = qact.weights.create("entmax15")(scores, mask)``, or the function of the same name,
``qact.weights.entmax15(scores, dim, mask)``. A mask is boolean (True takes part) or additive; what
is masked has a weight and a gradient of exactly 0, a row that is masked everywhere is all zeros.
"""

from qact.weights.heads import (
    FourierHead,
    SoftPool2d,
    entmax_loss,
    neighbourhood,
    perpendicular_,
    soft_pool2d,
    sparsemax_loss,
)
from qact.weights.module import Map, PerHead, Weights
from qact.weights.ranks import ContextRank, normal_rank, rank, row_rank
from qact.weights.rational import power, softplus, stablemax, taylor
from qact.weights.rectified import rela, relu, sigmoid, softpick
from qact.weights.registry import Entry, create, entry, entry_of, names, register
from qact.weights.softmax import (
    SSMax,
    adaptive_temperature,
    clipped,
    era,
    gumbel,
    normalised,
    sdm,
    self_adjust,
    softmax,
    ssmax,
)
from qact.weights.sparse import LearntEntmax, entmax, entmax15, sparsemax

__all__ = [
    "ContextRank",
    "Entry",
    "FourierHead",
    "LearntEntmax",
    "Map",
    "PerHead",
    "SSMax",
    "SoftPool2d",
    "Weights",
    "adaptive_temperature",
    "clipped",
    "create",
    "entmax",
    "entmax15",
    "entmax_loss",
    "entry",
    "entry_of",
    "era",
    "gumbel",
    "names",
    "neighbourhood",
    "normal_rank",
    "normalised",
    "perpendicular_",
    "power",
    "rank",
    "register",
    "rela",
    "relu",
    "row_rank",
    "sdm",
    "self_adjust",
    "sigmoid",
    "soft_pool2d",
    "softmax",
    "softpick",
    "softplus",
    "sparsemax",
    "sparsemax_loss",
    "ssmax",
    "stablemax",
    "taylor",
]
