#!/usr/bin/env bash
# torchmetrics 1.9.0: the label ranking loss of tied scores depends on the order of the columns: the place in
# argsort(argsort(scores)) serves as the rank. A score that is the same for every label orders no pair, and
# scikit-learn counts a tie as an error. Scores all 0.5, one relevant label of three:
#   relevant label in column   0     1     2
#   scikit-learn               1     1     1
#   torchmetrics               1     0.5   0     a constant is perfect if the relevant label comes last
# And the loss depends on the batches: a batch without any pair to order (no label, or all) counts as one
# row. 100 rows, the first in the wrong order, the rest without a label: 0.01 in one batch or in 100,
# 0.0196 in two halves.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.2.6 scikit-learn==1.7.2 scipy==1.15.3
"$folder/venv/bin/pip" install --quiet --no-deps torchmetrics==1.9.0 lightning-utilities==0.15.3
"$folder/venv/bin/pip" install --quiet packaging typing_extensions
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import torch
import torchmetrics
from sklearn.metrics import label_ranking_loss
from torchmetrics.classification import MultilabelRankingLoss

print(f"torchmetrics {torchmetrics.__version__}")
metric, constant, found = MultilabelRankingLoss(num_labels=3), torch.full((4, 3), 0.5), {}
for column in range(3):
    target = torch.zeros(4, 3, dtype=torch.long)
    target[:, column] = 1
    found[column] = float(metric(constant, target))
    peer = label_ranking_loss(target.numpy(), constant.numpy())
    print(f"constant scores, relevant label {column}: {found[column]}, scikit-learn {peer}")
    assert peer == 1
assert found == {0: 1.0, 1: 0.5, 2: 0.0}, found

scores, split = torch.tensor([[0.1, 0.2, 0.3]]).repeat(100, 1), {}
target = torch.zeros(100, 3, dtype=torch.long)
target[0, 0] = 1
for size in (100, 50, 1):
    metric = MultilabelRankingLoss(num_labels=3)
    for batch in zip(scores.split(size), target.split(size)):
        metric.update(*batch)
    split[size] = round(float(metric.compute()), 4)
exact = label_ranking_loss(target.numpy(), scores.numpy())
print(f"by rows a batch: {split}, scikit-learn {exact}")
assert exact == 0.01 and split == {100: 0.01, 50: 0.0196, 1: 0.01}, split
PY
