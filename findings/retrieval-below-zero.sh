#!/usr/bin/env bash
# torchmetrics 1.9.0: four of the retrieval metrics take a document whose score is not above zero for irrelevant,
# whatever its label, so that they depend on where the zero of a score lies. They document "float predictions from a
# model output"; logits, cosines and negated distances rank alike at any offset. Scores 1, -1, -2, relevance 1, 0, 1:
#                                        as they are   plus 10   minus 10
#   RetrievalMAP                         1             0.833     0
#   RetrievalMRR                         1             1         0
#   RetrievalRecall, RetrievalPrecision  0.5, 0.33     1, 0.67   0, 0
#   RetrievalNormalizedDCG, RPrecision   0.920, 0.5    the same  the same
# MAP is higher as it should be: the relevant document that comes last no longer counts. scikit-learn's average
# precision is 0.833 for all three. Way round: scores.sigmoid() or scores - scores.min() + 1 before the metric.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.5 scikit-learn==1.9.1
"$folder/venv/bin/pip" install --quiet --no-deps torchmetrics==1.9.0 lightning-utilities==0.15.3
"$folder/venv/bin/pip" install --quiet packaging typing_extensions
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import torch
import torchmetrics
from sklearn.metrics import average_precision_score
from torchmetrics import retrieval

print(f"torchmetrics {torchmetrics.__version__}: scores as they are, plus 10, minus 10")
scores, relevant = torch.tensor([1.0, -1, -2]), torch.tensor([1, 0, 1])
query = torch.zeros(3, dtype=torch.long)


def at(name):
    metric = getattr(retrieval, name)
    found = [float(metric()(scores + c, relevant, indexes=query)) for c in (0, 10, -10)]
    print(f"{name:24}", *(f"{value:.3f}" for value in found))
    return torch.tensor(found)


exact = (1 + 2 / 3) / 2
for c in (0, 10, -10):
    assert abs(average_precision_score(relevant, scores + c) - exact) < 1e-6
assert torch.allclose(at("RetrievalMAP"), torch.tensor([1, exact, 0]))
assert torch.allclose(at("RetrievalMRR"), torch.tensor([1.0, 1, 0]))
assert torch.allclose(at("RetrievalRecall"), torch.tensor([0.5, 1, 0]))
assert torch.allclose(at("RetrievalPrecision"), torch.tensor([1 / 3, 2 / 3, 0]))
for name in ("RetrievalNormalizedDCG", "RetrievalRPrecision"):
    found = at(name)
    assert torch.allclose(found, found[0].expand(3)), found
mapped = retrieval.RetrievalMAP()(scores.sigmoid(), relevant, indexes=query)
assert abs(float(mapped) - exact) < 1e-6, mapped
PY
