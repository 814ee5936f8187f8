"""Losses: of logits, of cosines in heads that learn class vectors, and of embeddings."""

from qact.losses.angular import (
    ArcFace,
    CosFace,
    CosineHead,
    NormalisedSoftmax,
    SphereFace,
    SphereFace2,
    WrappedCauchy,
)
from qact.losses.binary import gumbel_loss, squared_hinge_loss
from qact.losses.classifier import WatershedClassifier
from qact.losses.entropy import CrossEntropy, cross_entropy
from qact.losses.forest import propagate
from qact.losses.heads import Head, LargeDropout, NoisySoftmax
from qact.losses.margins import (
    arcface_loss,
    cosface_loss,
    normalised_softmax_loss,
    sphereface2_loss,
    sphereface_loss,
    wrapped_cauchy,
)
from qact.losses.memory import CrossBatchMemory
from qact.losses.miners import (
    AngularMiner,
    BatchEasyHardMiner,
    BatchHardMiner,
    DistanceWeightedMiner,
    HDCMiner,
    MultiSimilarityMiner,
    PairMarginMiner,
    TripletMarginMiner,
    UniformHistogramMiner,
)
from qact.losses.multilabel import decoupled_softmax_loss, soft_top_k, soft_top_k_loss
from qact.losses.normalised import logit_norm_loss, z_loss
from qact.losses.penalties import NormLoss, dca_loss, mdca_loss, mmce, mmce_loss, norm_loss
from qact.losses.quantile import FeasibleLearning, QuantileHuberLoss, quantile_huber_loss
from qact.losses.registry import Entry, LogitLoss, create, entry, logit_loss, names, register
from qact.losses.rows import rowwise
from qact.losses.sampled import SampledSoftmax
from qact.losses.softmax import (
    aldr_kl_loss,
    comp_sum_loss,
    confidence_penalty_loss,
    dual_focal_loss,
    focal_loss,
    generalized_cross_entropy,
    label_smoothing_loss,
    ldr_kl_loss,
    margin_smoothing_loss,
    maxsup_loss,
    mean_absolute_error,
)
from qact.losses.sparse import entmax_loss, sparsemax_loss
from qact.losses.triplet import TripletLoss, triplet_loss
from qact.losses.triplet_watershed import TripletWatershedLoss, triplet_watershed_loss
from qact.losses.watershed import WatershedLoss, watershed_loss

__all__ = [
    "AngularMiner",
    "ArcFace",
    "BatchEasyHardMiner",
    "BatchHardMiner",
    "CosFace",
    "CosineHead",
    "CrossBatchMemory",
    "CrossEntropy",
    "DistanceWeightedMiner",
    "Entry",
    "FeasibleLearning",
    "HDCMiner",
    "Head",
    "LargeDropout",
    "LogitLoss",
    "MultiSimilarityMiner",
    "NoisySoftmax",
    "NormLoss",
    "NormalisedSoftmax",
    "PairMarginMiner",
    "QuantileHuberLoss",
    "SampledSoftmax",
    "SphereFace",
    "SphereFace2",
    "TripletLoss",
    "TripletMarginMiner",
    "TripletWatershedLoss",
    "UniformHistogramMiner",
    "WatershedClassifier",
    "WatershedLoss",
    "WrappedCauchy",
    "aldr_kl_loss",
    "arcface_loss",
    "comp_sum_loss",
    "confidence_penalty_loss",
    "cosface_loss",
    "create",
    "cross_entropy",
    "dca_loss",
    "decoupled_softmax_loss",
    "dual_focal_loss",
    "entmax_loss",
    "entry",
    "focal_loss",
    "generalized_cross_entropy",
    "gumbel_loss",
    "label_smoothing_loss",
    "ldr_kl_loss",
    "logit_loss",
    "logit_norm_loss",
    "margin_smoothing_loss",
    "maxsup_loss",
    "mdca_loss",
    "mean_absolute_error",
    "mmce",
    "mmce_loss",
    "names",
    "norm_loss",
    "normalised_softmax_loss",
    "propagate",
    "quantile_huber_loss",
    "register",
    "rowwise",
    "soft_top_k",
    "soft_top_k_loss",
    "sparsemax_loss",
    "sphereface2_loss",
    "sphereface_loss",
    "squared_hinge_loss",
    "triplet_loss",
    "triplet_watershed_loss",
    "watershed_loss",
    "wrapped_cauchy",
    "z_loss",
]
