#!/usr/bin/env bash
# captum 0.9.0 (torch 2.13.0): integrated gradients with method="riemann_trapezoid" come out short by one part
# in n_steps: the n weights are 1/n with the two ends halved, for points that lie 1/(n - 1) apart, so that they
# add up to (n - 1)/n. A linear model, whose attributions are weight * input by every rule; their ratio to that:
#   n_steps               2      10     50 (the default)
#   riemann_trapezoid     0.5    0.9    0.98
#   every other method    1      1      1
# More smoothness does not help: the error goes with 1/n where the trapezoid rule's goes with 1/n^2, and the
# completeness check (return_convergence_delta) reports it as if more steps were needed.
# Way round: gausslegendre (the default), riemann_middle, or the result times n / (n - 1).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 captum==0.9.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import captum
import torch
from captum.attr import IntegratedGradients

METHODS = ("riemann_trapezoid", "riemann_left", "riemann_right", "riemann_middle", "gausslegendre")
weight, x, found = torch.tensor([1.0, -2.0, 3.0]).double(), torch.tensor([[1.0, 2.0, 3.0]]).double(), {}
print(f"captum {captum.__version__}: attribution of a linear model over weight * input")
for method in METHODS:
    for steps in (2, 10, 50):
        rule = IntegratedGradients(lambda x: x @ weight)
        ratio = rule.attribute(x, n_steps=steps, method=method) / (weight * x)
        assert ratio.max() - ratio.min() < 1e-6
        found[method, steps] = float(ratio.mean())
    print(f"{method:18}", *(f"{found[method, steps]:.4f}" for steps in (2, 10, 50)))
for (method, steps), ratio in found.items():
    exact = (steps - 1) / steps if method == "riemann_trapezoid" else 1
    assert abs(ratio - exact) < 1e-6, (method, steps, ratio)
PY
