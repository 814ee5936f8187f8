"""AUROC and its kin against scikit-learn, with ties, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qact.scores import auroc, average_precision, detection, fpr_at

metrics = pytest.importorskip("sklearn.metrics")


@pytest.mark.parametrize("digits", [0, 1, 6])  # 0 decimals: many ties
@pytest.mark.parametrize("seed", range(3))
def test_against_scikit_learn(digits, seed):
    random = np.random.default_rng(seed)
    low, high = (np.round(random.normal(m, 1, n), digits) for m, n in ((0, 150), (1, 70)))
    truth = np.r_[np.zeros(150), np.ones(70)]
    both = np.r_[low, high]
    a, b = torch.from_numpy(low), torch.from_numpy(high)
    assert auroc(a, b) == pytest.approx(metrics.roc_auc_score(truth, both))
    assert average_precision(a, b) == pytest.approx(metrics.average_precision_score(truth, both))
    fpr, tpr, _ = metrics.roc_curve(1 - truth, -both, drop_intermediate=False)
    assert fpr_at(a, b) == pytest.approx(fpr[np.argmax(tpr >= 0.95)])
    found = detection(a, b)
    swapped = metrics.average_precision_score(1 - truth, -both)
    assert found.aupr_in == pytest.approx(swapped)


def test_limits():
    same = torch.zeros(5)
    assert auroc(same, torch.zeros(9)) == 0.5
    assert auroc(torch.tensor([1.0]), torch.tensor([torch.inf])) == 1.0
    assert fpr_at(torch.tensor([1.0]), torch.tensor([1.0])) == 1.0
    for bad, text in (
        (torch.empty(0), r"\(N,\), N >= 1"),
        (torch.tensor([torch.nan]), "holds NaN"),
    ):
        with pytest.raises(ValueError, match=text):
            auroc(same, bad)
    with pytest.raises(TypeError, match="must be a tensor"):
        auroc([1.0], same)
