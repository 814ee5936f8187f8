#!/usr/bin/env bash
# scoringrules 0.10.0: error_spread_score divides the ensemble's skewness by its size. Christensen et al. 2015, whom
# it cites, have (s^2 - e^2 - e s g)^2 with the sample skewness g = M / ((M - 1)(M - 2)) sum z^3; the M is missing, so
# that the term vanishes in ensembles of any size, and what it is there for, skewed forecasts, is scored as if it were
# symmetric. A perfect forecast of an exponential variable, for which the score's mean is 9 - 1 - 2^2 = 4, ensembles
# of 1000, 20,000 times:
#   with g of scipy.stats.skew(bias=False)   4.1
#   error_spread_score                       8.0    (without skewness: 9 - 1 = 8)
#   error_spread_score of a normal variable  2.1    as it should be
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: scoringrules==0.10.0 numpy==2.2.6 scipy==1.15.3
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import scoringrules
from scipy.stats import skew

rng, members, times = np.random.default_rng(0), 1000, 20_000


def scores(draw):
    said, exact = [], []
    for _ in range(times // 1000):
        truth, ensemble = draw(1000), draw((1000, members))
        error, deviation = ensemble.mean(1) - truth, ensemble.std(1, ddof=1)
        exact.append((deviation**2 - error**2 - error * deviation * skew(ensemble, axis=1, bias=False)) ** 2)
        said.append(scoringrules.error_spread_score(truth, ensemble, backend="numpy"))
    return np.mean(said), np.mean(exact)


print(f"scoringrules {version('scoringrules')}")
for name, draw in (("exponential", rng.standard_exponential), ("normal", rng.standard_normal)):
    said, exact = scores(draw)
    print(f"perfect forecast of a {name} variable: said {said:.2f}, by the formula {exact:.2f}")
    if name == "exponential":
        assert 7 < said < 9.5 and 3.5 < exact < 4.7, (said, exact)
    else:
        assert abs(said - 2) < 0.2 and abs(exact - 2) < 0.2, (said, exact)
small = np.array([0.0, 0, 1])  # by hand: mean 1/3, s^2 = 1/3, z = -1, -1, 2 over sqrt(3), g = 3 / (2 * 1) * 6 / 3^1.5
deviation, g = 3**-0.5, 1.5 * 6 / 3**1.5
said, exact = float(scoringrules.error_spread_score(1.0, small)), (1 / 3 - 4 / 9 + 2 / 3 * deviation * g) ** 2
print(f"1 of the ensemble 0, 0, 1: said {said:.4f}, by hand {exact:.4f}")
assert abs(skew(small, bias=False) - g) < 1e-12 and abs(exact - 25 / 81) < 1e-9
assert abs(said - 1 / 81) < 1e-9, said  # g a third of what it is
PY
