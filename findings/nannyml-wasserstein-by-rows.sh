#!/usr/bin/env bash
# nannyml 0.13.1: from 10,000 reference rows on, the Wasserstein distance of a chunk with a value below the
# smallest reference value comes out too large by the range of the reference over the rows of the chunk,
# and asking for calculation_method "exact" changes nothing. Reference: an even grid on [0, 1]; chunk: ten
# values, one of them -0.001; exactly 0.0276 (scipy):
#   9,999 reference rows    0.0276
#   10,000                  0.1051    here the binned estimate starts, by the documentation
#   10,000, "exact" asked   0.1051    in computation_params, as the documentation has it
# The estimate adds the share of rows below the range to the distribution function as (k + 1) / n instead of
# k / n, so the function ends above 1. The parameters are read one level too high in the nested dict.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: nannyml==0.13.1 statsmodels==0.14.5 \
    numpy==1.26.4 pandas==2.2.3 scipy==1.15.3  # it imports statsmodels and does not require it
cd "$folder"
NML_DISABLE_USAGE_LOGGING=1 "$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import nannyml
import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

chunk = pd.DataFrame({"x": np.r_[-0.001, np.arange(1, 10) / 10 + 0.05]})
asked = {"computation_params": {"wasserstein": {"calculation_method": "exact"}}}
found, exact = {}, {}
print(f"nannyml {version('nannyml')}")
for rows in (9_999, 10_000):
    reference = pd.DataFrame({"x": (np.arange(rows) + 0.5) / rows})
    exact[rows] = wasserstein_distance(reference.x, chunk.x)
    for name, options in (("auto", {}), ("exact", asked)):
        calculator = nannyml.UnivariateDriftCalculator(
            column_names=["x"], continuous_methods=["wasserstein"], chunk_size=10, **options
        )
        result = calculator.fit(reference).calculate(chunk).filter(period="analysis").to_df()
        found[rows, name] = float(result["x"]["wasserstein"]["value"].iloc[0])
        print(f"{rows} rows, {name}: {found[rows, name]:.4f}, exactly {exact[rows]:.4f}")
assert abs(found[9_999, "auto"] - exact[9_999]) < 1e-9, found
assert found[10_000, "exact"] == found[10_000, "auto"], found
assert abs(found[10_000, "auto"] - 0.1051) < 1e-3 and exact[10_000] < 0.03, (found, exact)
PY
