#!/usr/bin/env bash
# mapie 1.6.0: spiegelhalter_p_value is 1 - Phi(z), the upper tail alone, for a statistic of which its documentation
# says "the closer to zero, the better". A model that is too cautious has a Brier score below what it announces,
# z far below 0 and a p-value of 1: the test can only reject what is too sure. 2000 predictions from 0.5 to 0.9:
#   the truth                             z       p-value   2 Phi(-|z|)
#   as often as said                     -0.9     0.82      0.36
#   half as far from 1/2 (too sure)      13.3     0         0
#   0.1 more often (too cautious)        -9.5     1         1e-21
# Of mapie's other tests both see the cautious one (1e-11 and less). Way round: 2 * norm.sf(abs(statistic)).
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
from mapie.metrics.calibration import (
    kolmogorov_smirnov_p_value,
    kuiper_p_value,
    spiegelhalter_p_value,
    spiegelhalter_statistic,
)
from scipy.stats import norm

rng, n = np.random.default_rng(0), 2000
said = rng.uniform(0.5, 0.9, n)
truths = {"sound": said, "too sure": 0.25 + said / 2, "too cautious": said + 0.1}
print(f"mapie {version('mapie')}")
p, both = {}, {}
for name, truth in truths.items():
    y = (rng.random(n) < truth).astype(int)
    # Spiegelhalter 1986: the Brier score less its mean under the predictions, over its deviation
    brier, mean = np.square(y - said).mean(), (said * (1 - said)).mean()
    z = (brier - mean) / np.sqrt((said * (1 - said) * (1 - 2 * said) ** 2).sum()) * n
    assert abs(z - spiegelhalter_statistic(y, said)) < 1e-9
    p[name], both[name] = spiegelhalter_p_value(y, said), 2 * norm.sf(abs(z))
    others = kolmogorov_smirnov_p_value(y, said), kuiper_p_value(y, said)
    print(f"{name:13} z {z:6.2f}, p {p[name]:.2g}, of both sides {both[name]:.2g}, others {others}")
    assert name == "sound" or max(others) < 1e-9, others
assert p["too sure"] < 1e-20 and both["sound"] > 0.05, (p, both)
assert p["too cautious"] == 1 and both["too cautious"] < 1e-15, (p, both)
PY
