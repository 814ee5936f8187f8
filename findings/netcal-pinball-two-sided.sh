#!/usr/bin/env bash
# netcal 1.4.0: `QuantileLoss` (and `PinballLoss`) does not compute the pinball loss that its documentation states. For
# the level q it takes the nearer end of the central interval of mass q, and weighs by whether y lies in that interval.
# A forecast N(0, 1):
#   q and y                  0.5, y = 0    0.9, y = 2    0.1, y = 2    0.05 .. 0.95, 20,000 values of N(0, 1)
#   by the formula, sklearn  0             0.65          0.33          0.295
#   netcal                   0.337         0.32          0.19          0.171
# So the exact median has a loss, and the 0.9-quantile is never looked at (0.05 and 0.95 are): the number cannot be
# compared with that of another package or paper. Way round: sklearn.metrics.mean_pinball_loss of the quantiles.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6 scipy==1.15.3 scikit-learn==1.7.2 tqdm
"$folder/venv/bin/pip" install --quiet --no-deps netcal==1.4.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
from netcal.metrics.regression import PinballLoss, QuantileLoss
from scipy.stats import norm
from sklearn.metrics import mean_pinball_loss


def by_formula(y, levels):
    quantiles = norm.ppf(levels)
    losses = [mean_pinball_loss(y, np.full_like(y, v), alpha=q) for v, q in zip(quantiles, levels)]
    return float(np.mean(losses))


def by_ends(y, levels):
    """Return the loss of the nearer end of the central interval."""
    end = norm.ppf((1 + levels) / 2)[:, None]
    inside = np.abs(y) <= end
    return float((np.abs(np.abs(y) - end) * np.where(inside, 1 - levels[:, None], levels[:, None])).mean())


stream = np.random.default_rng(0).normal(size=20_000)
print("netcal", version("netcal"))
cases = [(np.array([0.0]), [0.5]), (np.array([2.0]), [0.9]), (np.array([2.0]), [0.1])]
for y, levels in [*cases, (stream, np.arange(0.05, 1, 0.05))]:
    levels = np.asarray(levels)
    forecast = np.zeros_like(y), np.ones_like(y)
    found = [float(loss().measure(forecast, y, q=levels)) for loss in (QuantileLoss, PinballLoss)]
    right, ends = by_formula(y, levels), by_ends(y, levels)
    print(f"{len(levels)} level(s) from {levels[0]:.2f}, {len(y)} value(s): netcal {found[0]:.3f}, formula {right:.3f}")
    assert found[0] == found[1] and abs(found[0] - ends) < 1e-6 and abs(found[0] - right) > 0.1, (found, ends)
PY
