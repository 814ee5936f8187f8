"""Scores: can this prediction be trusted, and is this input from here at all?

One interface, ``fit(model, data)``, ``score(x)``, ``threshold(rate)``; larger is more outlying,
everywhere. :class:`Panel` fits and computes many in one pass.
"""

from qact.scores.bounds import IntervalBounds
from qact.scores.coverage import NAC
from qact.scores.features import (
    KNN,
    SDM,
    ConjNorm,
    Mahalanobis,
    RelativeMahalanobis,
    TSimilarity,
    ViM,
)
from qact.scores.following import Following
from qact.scores.gradients import ODIN, AdaSCALE, StablePropagation
from qact.scores.logits import (
    GEN,
    MSP,
    CentroidDistance,
    Energy,
    Evidential,
    KLMatching,
    LabelNonUniformity,
    MaxLogit,
    RelU,
    TempNet,
)
from qact.scores.metrics import Detection, auroc, average_precision, detection, fpr_at
from qact.scores.outputs import Outputs, Reader
from qact.scores.panel import Panel
from qact.scores.patterns import ActivationPattern, OutsideBox
from qact.scores.pytorch_ood import from_pytorch_ood, to_pytorch_ood
from qact.scores.registry import Entry, create, entry, names, register
from qact.scores.score import Score
from qact.scores.shaping import ASH, DICE, SCALE, VRA, ReAct

__all__ = [
    "ASH",
    "DICE",
    "GEN",
    "KNN",
    "MSP",
    "NAC",
    "ODIN",
    "SCALE",
    "SDM",
    "VRA",
    "ActivationPattern",
    "AdaSCALE",
    "CentroidDistance",
    "ConjNorm",
    "Detection",
    "Energy",
    "Entry",
    "Evidential",
    "Following",
    "IntervalBounds",
    "KLMatching",
    "LabelNonUniformity",
    "Mahalanobis",
    "MaxLogit",
    "Outputs",
    "OutsideBox",
    "Panel",
    "ReAct",
    "Reader",
    "RelU",
    "RelativeMahalanobis",
    "Score",
    "StablePropagation",
    "TSimilarity",
    "TempNet",
    "ViM",
    "auroc",
    "average_precision",
    "create",
    "detection",
    "entry",
    "fpr_at",
    "from_pytorch_ood",
    "names",
    "register",
    "to_pytorch_ood",
]
