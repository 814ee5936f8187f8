"""Taps: read, change and explain what happens inside a network."""

from qact.taps.autoencoder import Autoencoder, Fit, fit_of
from qact.taps.block import Changing, Visit
from qact.taps.concepts import (
    ConceptScore,
    choose_layer,
    codes,
    divergence,
    intrinsic_dimension,
    massive,
    procrustes,
    redundancy,
    tcav,
)
from qact.taps.explain import explain_drift
from qact.taps.features import Feature, features
from qact.taps.fitting import Progress, autoencode, fit_autoencoder
from qact.taps.observe import Observer
from qact.taps.patch import patch
from qact.taps.patterns import Boxes, Patterns
from qact.taps.place import Place, places
from qact.taps.probes import Probe, Probed, probe, probed
from qact.taps.quantise import (
    awq_scales,
    clip_range,
    hadamard,
    kurtosis,
    noisy_linear,
    quantise,
    reparameterise,
    softmax_bias,
)
from qact.taps.quantisers import Log, Quantiser, ShiftLog, Uniform, fit_log, fit_shift
from qact.taps.reading import Observing, Reading
from qact.taps.report import DriftReport, Effect
from qact.taps.sparsity import Point, Sparsified, accuracy_sparsity, sparsify, sparsity_curve
from qact.taps.steering import Condition, Direction, delta, difference, fingerprint, steer
from qact.taps.taps import Tap, tap

__all__ = [
    "Autoencoder",
    "Boxes",
    "Changing",
    "ConceptScore",
    "Condition",
    "Direction",
    "DriftReport",
    "Effect",
    "Feature",
    "Fit",
    "Log",
    "Observer",
    "Observing",
    "Patterns",
    "Place",
    "Point",
    "Probe",
    "Probed",
    "Progress",
    "Quantiser",
    "Reading",
    "ShiftLog",
    "Sparsified",
    "Tap",
    "Uniform",
    "Visit",
    "accuracy_sparsity",
    "autoencode",
    "awq_scales",
    "choose_layer",
    "clip_range",
    "codes",
    "delta",
    "difference",
    "divergence",
    "explain_drift",
    "features",
    "fingerprint",
    "fit_autoencoder",
    "fit_log",
    "fit_of",
    "fit_shift",
    "hadamard",
    "intrinsic_dimension",
    "kurtosis",
    "massive",
    "noisy_linear",
    "patch",
    "places",
    "probe",
    "probed",
    "procrustes",
    "quantise",
    "redundancy",
    "reparameterise",
    "softmax_bias",
    "sparsify",
    "sparsity_curve",
    "steer",
    "tap",
    "tcav",
]
