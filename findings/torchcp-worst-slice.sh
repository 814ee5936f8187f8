#!/usr/bin/env bash
# torchcp 1.2.1: WSC, the worst-slice coverage of Romano et al. 2020, looks for the slice of the smallest
# class numbers, not for that of the smallest coverage: it hands calWSC labels and coverage in each other's
# places. 4000 points whose prediction sets hold the label unless the first feature is below 0.2:
#   coverage of all points 0.81, of the slice of the first feature below 0.2: 0
#   WSC(delta=0.1)         0.82    as if no slice were worse than the whole
#   with the two arguments in the places that calWSC names: 0.00
# `import torchcp` needs packages that have to be compiled, so that the file of the metrics is loaded alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6 scikit-learn==1.7.2 scipy==1.15.3 tqdm
"$folder/venv/bin/pip" install --quiet --no-deps torchcp==1.2.1
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import importlib.util
import sys
import types
from importlib.metadata import version

(root,) = importlib.util.find_spec("torchcp").submodule_search_locations
for name in ("torchcp", "torchcp.classification", "torchcp.classification.utils"):
    package = types.ModuleType(name)  # its folder alone, without what its __init__ imports
    package.__path__ = ["/".join([root, *name.split(".")[1:]])]
    sys.modules[name] = package

import torch
from torchcp.classification.utils import metrics

generator = torch.Generator().manual_seed(0)
points, classes = 4000, 3
x = torch.rand(points, 2, generator=generator)
label = torch.randint(classes, (points,), generator=generator)
covered = x[:, 0] >= 0.2
sets = torch.zeros(points, classes, dtype=torch.bool)
sets[torch.arange(points), label] = covered
said = metrics.WSC(x, sets, label, delta=0.1, M=200)

search = metrics.calWSC
metrics.calWSC = lambda features, second, third, **options: search(features, third, second, **options)
right = metrics.WSC(x, sets, label, delta=0.1, M=200)
print(f"torchcp {version('torchcp')}: coverage {covered.float().mean():.3f}, WSC {said:.3f}")
print(f"with calWSC's arguments in their places: {right:.3f}")
assert said > 0.75 and right < 0.05, (said, right)
PY
