#!/usr/bin/env bash
# river 0.26.1: `ADWIN.variance`, "the sample variance within the stored (adaptive) window", is the sum of the squared
# deviations: as many times too large as the window is long. A stream of N(0, 1):
#   values seen              50      500     5,000
#   ADWIN.variance           41.5    514     4,954
#   numpy, of the window     0.85    1.03    0.99
# It grows without bound on a stationary stream and falls at a drift because the window is cut, whatever the spread.
# width, total and estimation are right, and this stream raises no alarm. Way round: variance / width.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: river==0.26.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import river
from river import drift

stream, adwin = np.random.default_rng(0).normal(size=5000), drift.ADWIN(clock=32)
print("river", river.__version__)
for seen, value in enumerate(stream, 1):
    adwin.update(float(value))
    if seen in (50, 500, 5000):
        window = stream[seen - int(adwin.width) : seen]
        print(f"{seen} seen, window {adwin.width:g}: variance {adwin.variance:.4g}, numpy {window.var(ddof=1):.4g}")
        assert abs(adwin.estimation - window.mean()) < 1e-9
        assert abs(adwin.variance - len(window) * window.var()) < 1e-6 * adwin.variance
        assert adwin.width == seen and adwin.variance > 20 * window.var(ddof=1)
PY
