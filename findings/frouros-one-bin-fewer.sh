#!/usr/bin/env bash
# frouros 0.9.0: JS and KL work with one bin fewer than num_bins says: num_bins points are spread from
# the smallest to the largest value, and the intervals between them are the bins. With num_bins=2
# there is one, which holds everything: the Jensen-Shannon distance and the Kullback-Leibler divergence
# of two samples that do not overlap are 0 (exactly: sqrt(ln 2) = 0.8326, and infinity). With 1 they are
# 0 over no bin at all. PSI, HellingerDistance and HINormalizedComplement cut num_bins bins.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: frouros==0.9.0 numpy==2.1.3 scipy==1.14.1
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from frouros.detectors import data_drift
from scipy.spatial.distance import jensenshannon

print(f"frouros {version('frouros')}")
low, high, found = np.linspace(0, 1, 200), np.linspace(10, 11, 200), {}
for name in ("JS", "KL", "HellingerDistance"):
    for bins in (2, 3):
        detector = getattr(data_drift, name)(num_bins=bins)
        detector.fit(X=low)
        found[name, bins] = float(detector.compare(X=high)[0].distance)
        print(name, f"num_bins={bins}", found[name, bins])
edges = np.linspace(0, 11, 3)  # two bins
exact = jensenshannon(*(np.histogram(x, edges)[0] / 200 for x in (low, high)))
print(f"Jensen-Shannon distance over two bins: {exact:.4f}")
assert abs(exact - np.sqrt(np.log(2))) < 1e-9
assert found["JS", 2] == found["KL", 2] == 0 and found["HellingerDistance", 2] == 1, found
assert abs(found["JS", 3] - exact) < 1e-9 and found["KL", 3] == np.inf, found
PY
