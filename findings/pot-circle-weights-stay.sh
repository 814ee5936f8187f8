#!/usr/bin/env bash
# POT 0.9.7.post1: `ot.semidiscrete_wasserstein2_unif_circle(values, weights)`, the distance to the uniform distribution
# that spherical sliced Wasserstein is made of, sorts the values and leaves their weights where they were. The distance
# depends on the order of the rows; values 0.7, 0.2, 0.1 with weights 0.6, 0.3, 0.1:
#                                     as given   sorted
#   semidiscrete, with weights        0.0452     0.0212
#   ot.emd2 to 4,000 points           0.0212     0.0212
#   each row repeated 6, 3, 1 times   0.0212     0.0212
# Way round: sort values and weights together before the call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: POT==0.9.7.post1 numpy==2.2.6 scipy==1.15.3
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import ot

POINTS = 4000
grid = (np.arange(POINTS) + 0.5) / POINTS
values, counts = np.array([0.7, 0.2, 0.1]), np.array([6, 3, 1])
order, found = np.argsort(values), {}
for name, rows in {"as given": [0, 1, 2], "sorted": order}.items():
    x, w = values[rows], counts[rows] / 10
    arc = np.abs(x[:, None] - grid)
    exact = float(ot.emd2(w, np.full(POINTS, 1 / POINTS), np.minimum(arc, 1 - arc) ** 2))
    repeated = float(ot.semidiscrete_wasserstein2_unif_circle(np.repeat(x, counts[rows]))[0])
    found[name] = float(ot.semidiscrete_wasserstein2_unif_circle(x, w)[0])
    print(f"POT {ot.__version__}, {name}: with weights {found[name]:.4f}, emd2 {exact:.4f}, repeated {repeated:.4f}")
    assert abs(exact - repeated) < 1e-4
assert abs(found["sorted"] - exact) < 1e-4 and abs(found["as given"] - exact) > 0.01, found
PY
