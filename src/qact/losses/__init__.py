"""Losses: cross-entropy on logits; triplet, watershed and Triplet-Watershed on embeddings."""

from qact.losses.classifier import WatershedClassifier
from qact.losses.entropy import CrossEntropy, cross_entropy
from qact.losses.forest import propagate
from qact.losses.registry import Entry, create, entry, names, register
from qact.losses.triplet import TripletLoss, triplet_loss
from qact.losses.triplet_watershed import TripletWatershedLoss, triplet_watershed_loss
from qact.losses.watershed import WatershedLoss, watershed_loss

__all__ = [
    "CrossEntropy",
    "Entry",
    "TripletLoss",
    "TripletWatershedLoss",
    "WatershedClassifier",
    "WatershedLoss",
    "create",
    "cross_entropy",
    "entry",
    "names",
    "propagate",
    "register",
    "triplet_loss",
    "triplet_watershed_loss",
    "watershed_loss",
]
