#!/usr/bin/env bash
# scoringrules 0.10.0 (and 0.11.0, read): `logs_exponential2` and `crps_exponentialM` with a location subtract it from
# the caller's own array: asking for a score changes the data. Observations 2, 3, 5 and location 1.5:
#   first call    logs  0.5  1.5  3.5    observations afterwards  0.5  1.5  3.5
#   second call   inf in the first place (0.5 lies below 1.5), 0, 2
#   third call    inf, inf, 0.5
# Any score computed later from that array is one of shifted data. numpy and torch alike; the other thirty-odd scores
# leave it alone. Way round: pass a copy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: scoringrules==0.10.0 numpy==2.2.6 scipy==1.15.3
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import scoringrules as sr
from scipy.stats import expon

start, location, scores = np.array([2.0, 3.0, 5.0]), 1.5, []
observations = start.copy()
for call in (1, 2, 3):
    right = -expon(location, 1.0).logpdf(observations)
    scores.append(sr.logs_exponential2(observations, location, 1.0).tolist())
    print(f"call {call}: logs {scores[-1]}, observations afterwards {observations.tolist()}")
    assert np.allclose(scores[-1], right)
    assert np.array_equal(observations, start - call * location)
assert scores[0] == [0.5, 1.5, 3.5] and np.isinf(scores[1]).tolist() == [True, False, False], scores

observations = start.copy()
first, second = (sr.crps_exponentialM(observations, 0.2, location, 1.0) for _ in range(2))
print("crps_exponentialM twice:", first.round(3), second.round(3), "observations afterwards", observations)
assert not np.allclose(first, second) and np.array_equal(observations, start - 2 * location)
observations = start.copy()
sr.crps_normal(observations, location, 1.0), sr.logs_laplace(observations, location, 1.0)
assert np.array_equal(observations, start)
PY
