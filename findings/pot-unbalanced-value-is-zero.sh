#!/usr/bin/env bash
# POT 0.9.7.post1: `ot.solve(M, a, b, reg=..., unbalanced=...)` returns the same `value` for every problem: 0. It is
# documented as "Full transport cost, including possible regularization terms". Its Kullback-Leibler terms lack the
# masses (sum q - sum p of unnormalised measures), and without them the sum is 0 at the optimum, whatever the costs:
#   costs                                        squared distances   ten times those   all 0
#   value                                        5e-14               2e-14             0
#   <P, M> + reg KL + unbalanced (KL + KL)       0.712               1.714             0
# The plan is right (scipy finds none with a smaller objective); without `reg`, and with unbalanced_type="TV", so is the
# value. ot.unbalanced.sinkhorn_unbalanced2(returnCost="total") is 0 likewise. Way round: the objective of the plan.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: POT==0.9.7.post1 numpy==2.2.6 scipy==1.15.3
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np
import ot
from scipy.optimize import minimize

REG, RELAX = 0.1, 1.0
a, b = np.full(5, 1 / 5), np.full(4, 1 / 4)


def kl(p, q):
    return (p * np.log(p / q) - p + q).sum()


def objective(plan, cost):
    marginals = kl(plan.sum(1), a) + kl(plan.sum(0), b)
    return (plan * cost).sum() + REG * kl(plan, np.outer(a, b)) + RELAX * marginals


rng = np.random.default_rng(0)
x, y = rng.normal(size=(5, 2)), rng.normal(size=(4, 2)) + 1
print("POT", ot.__version__)
for name, cost in {"near": ot.dist(x, y), "far": 10 * ot.dist(x, y), "nothing": np.zeros((5, 4))}.items():
    found = ot.solve(cost, a, b, reg=REG, unbalanced=RELAX, max_iter=100_000, tol=1e-13)
    options = {"returnCost": "total", "numItermax": 100_000, "stopThr": 1e-13}
    total = float(ot.unbalanced.sinkhorn_unbalanced2(a, b, cost, REG, RELAX, **options))
    right = objective(found.plan, cost)
    best = minimize(lambda z: objective(np.exp(z).reshape(5, 4), cost), np.log(found.plan).ravel(), tol=1e-9).fun
    print(f"{name}: value {found.value:.2g}, sinkhorn_unbalanced2 {total:.2g}, by hand {right:.4f}, scipy {best:.4f}")
    assert abs(right - best) < 1e-4
    assert abs(found.value) < 1e-8 and abs(total) < 1e-8
    assert right < 1e-8 if name == "nothing" else right > 0.5
tv = ot.solve(ot.dist(x, y), a, b, reg=REG, unbalanced=RELAX, unbalanced_type="TV")
exact = ot.solve(ot.dist(x, y), a, b, unbalanced=RELAX)
print(f"unbalanced_type='TV': {tv.value:.4f}; without reg: {exact.value:.4f}")
assert tv.value > 0.5 and exact.value > 0.3
PY
