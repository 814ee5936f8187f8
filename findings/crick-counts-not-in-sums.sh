#!/usr/bin/env bash
# crick 0.0.8 (the sketches of dask): `SummaryStats.add(x, count)`, "the count of the item to add", adds count to the
# number of items and x once to the sum. Everything but count, min and max is wrong; 1 twice, 2 once, 4 three times:
#              add(x, count)   each x count times   numpy
#   count      6               6                    6
#   sum        7               16                   16
#   mean       1.167           2.667                2.667    (nearly the least value)
#   variance   0.278           1.889                1.889
# `update(x, counts)` likewise; the TDigest of the package takes counts rightly. Way round: repeat the values.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: crick==0.0.8 numpy==2.2.6
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import crick
import numpy as np

values, counts = np.array([1.0, 2.0, 4.0]), np.array([2, 1, 3])
data = np.repeat(values, counts)
added, updated, repeated = (crick.SummaryStats() for _ in range(3))
for x, count in zip(values, counts):
    added.add(x, int(count))
updated.update(values, counts)
repeated.update(data)
right = {"count": data.size, "sum": data.sum(), "mean": data.mean(), "var": data.var()}
print("crick", version("crick"))
for name, exact in right.items():
    a, u, r = (getattr(s, name)() for s in (added, updated, repeated))
    print(f"{name:6} add {a:.3f}, update {u:.3f}, repeated {r:.3f}, numpy {exact:.3f}")
    assert a == u and abs(r - exact) < 1e-12
    assert (a == exact) if name == "count" else abs(a - exact) > 0.1, name
assert added.mean() == values.sum() / counts.sum()
digest = crick.TDigest()
digest.update(values, counts)
assert digest.size() == 6 and digest.quantile(0.9) > 2.5
PY
