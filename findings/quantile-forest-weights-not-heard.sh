#!/usr/bin/env bash
# quantile-forest 1.4.2: `fit(X, y, sample_weight)` hands the weights to the splits alone; the values kept in the leaves
# are counted once each, so that quantiles and the mean are those of the unweighted data. 50 zeros of weight 1, 50 ones
# of weight 9, one leaf:
#                                            quantiles 0.05, 0.2, 0.5   mean
#   RandomForestQuantileRegressor, weights   0, 0, 0.5                  0.5
#   the same without weights                 0, 0, 0.5                  0.5
#   each one repeated nine times             0, 1, 1                    0.9
#   scikit-learn's RandomForestRegressor                                0.9
# weighted_quantile and weighted_leaves, which weigh trees and leaves, change nothing; nothing is said of this in the
# documentation of fit. Importance weights for a shifted population do not shift the intervals. Way round: repeat rows.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: \
    quantile-forest==1.4.2 numpy==2.2.6 scipy==1.15.3 scikit-learn==1.7.2
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import quantile_forest
from sklearn.ensemble import RandomForestRegressor

LEVELS = [0.05, 0.2, 0.5]
y, weights = np.repeat([0.0, 1.0], 50), np.repeat([1.0, 9.0], 50)
x = np.zeros((100, 1))


def forest(x, y, sample_weight=None, **options):
    one_leaf = {"n_estimators": 1, "bootstrap": False, "max_samples_leaf": None}
    model = quantile_forest.RandomForestQuantileRegressor(**one_leaf)
    model.fit(x, y, sample_weight=sample_weight)
    quantiles = model.predict(x[:1], quantiles=LEVELS, **options)[0].round(6).tolist()
    return quantiles, float(model.predict(x[:1], quantiles="mean")[0])


repeats = weights.astype(int)
found = {
    "weights": forest(x, y, weights),
    "none": forest(x, y),
    "repeated": forest(np.repeat(x, repeats, 0), np.repeat(y, repeats)),
}
print("quantile-forest", quantile_forest.__version__)
for name, (quantiles, mean) in found.items():
    print(f"{name:9} quantiles {quantiles}, mean {mean:.2f}")
peer = float(RandomForestRegressor(n_estimators=1, bootstrap=False).fit(x, y, weights).predict(x[:1])[0])
print("scikit-learn, weights: mean", peer)
assert abs(peer - np.average(y, weights=weights)) < 1e-9
assert found["weights"] == found["none"] == ([0.0, 0.0, 0.5], 0.5), found
assert found["repeated"][0] == [0.0, 1.0, 1.0] and abs(found["repeated"][1] - 0.9) < 1e-9, found
for quantile in (True, False):
    for leaves in (True, False):
        options = {"weighted_quantile": quantile, "weighted_leaves": leaves}
        assert forest(x, y, weights, **options)[0][1] == 0.0
PY
