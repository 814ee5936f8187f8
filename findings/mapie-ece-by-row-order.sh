#!/usr/bin/env bash
# mapie 1.6.0: two of its calibration errors are not the means over samples that they are defined as.
#   expected_calibration_error(split_strategy="array split") cuts the scores as they lie into bins, without sorting
#   them, and takes each part's largest score for the edge of a bin: in random order all edges are close to 1 and one
#   bin holds everything. 5000 scores that are right if and only if they are above 1/2, ten bins:
#     in the order of the scores   0.25    exactly: the mean of min(s, 1 - s)
#     as drawn                     0.0001
#   top_label_ece adds up the labels' errors with equal weights; Gupta and Ramdas' TL-ECE is an expectation, so that
#   a label weighs as often as it is predicted. 990 predictions of one label at 0.9, 90 % of them right, and 10 of
#   another at 0.9, 10 % right: 0.4, where 0.01 * 0.8 = 0.008 is due
# "uniform" and "quantile" do not depend on the order, but have one bin fewer than asked for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: \
    mapie==1.6.0 numpy==2.2.6 scipy==1.15.3 scikit-learn==1.7.2
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
from mapie.metrics.calibration import expected_calibration_error, top_label_ece

rng = np.random.default_rng(0)
score = rng.random(5000)
right, order, found = (score > 0.5).astype(int), np.argsort(score), {}
for strategy in ("array split", "quantile", "uniform"):
    found[strategy] = [
        expected_calibration_error(right[rows], score[rows], num_bins=10, split_strategy=strategy)
        for rows in (order, slice(None))
    ]
    print(f"mapie {version('mapie')}, {strategy}: sorted {found[strategy][0]:.4f}, drawn {found[strategy][1]:.4f}")
exact = np.minimum(score, 1 - score).mean()
assert abs(found["array split"][0] - exact) < 0.01 and found["array split"][1] < 0.01, found
assert all(abs(a - b) < 1e-9 for a, b in (found["quantile"], found["uniform"])), found

label = np.repeat([0, 1], [990, 10])
confidence = np.where(label[:, None] == np.arange(2), 0.9, 0.1)
truth = np.repeat([0, 1, 1, 0], [891, 99, 1, 9])
said = top_label_ece(truth, confidence, num_bins=10, split_strategy="uniform")
gap = [abs(np.mean(truth[label == k] == k) - 0.9) for k in range(2)]
exact = np.dot(gap, [0.99, 0.01])
print(f"top_label_ece {said:.4f}, by samples {exact:.4f}")
assert abs(said - np.mean(gap)) < 1e-9 and abs(exact - 0.008) < 1e-9, (said, gap)
PY
