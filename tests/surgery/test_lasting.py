"""What makes or fits modules does the same under `torch.inference_mode`, and it can be trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qact
from qact import calibration
from qact.activations import signal
from qact.activations.resilience import fit_bounds_

X = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))
Z = torch.randn(80, 4, generator=torch.Generator().manual_seed(1))
Y = torch.arange(80) % 4


def network(act):
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), act, nn.Flatten(), nn.Linear(64, 4)
    return nn.Sequential(*layers)


def run(model, x):
    model(x)
    return model


MAKERS = {
    "convert": (nn.PReLU, lambda m, x: qact.convert(m, example_inputs=x)),
    "warm": (nn.PReLU, lambda m, x: qact.convert(m, warm_start=x)),
    "warm_in_place": (nn.ReLU, lambda m, x: qact.convert_(m, warm_start=x)),
    "record": (nn.ReLU, qact.record),
    "edge": (nn.Tanh, lambda m, x: qact.init_(m, "edge")),
    "lsuv": (nn.ReLU, lambda m, x: qact.init_(m, "lsuv", inputs=x)),
    "lazy": (qact.LazyQAct, run),
    "bounds": (nn.ReLU, lambda m, x: fit_bounds_(m, [(X, Y[:64])], epochs=1)),
    "adapt": (nn.ReLU, lambda m, x: run(qact.adapt.create("tent", m, inplace=True), x).model),
}


@pytest.mark.parametrize("given", ["outside", "inside"])
@pytest.mark.parametrize("name", MAKERS)
def test_what_is_made_in_inference_mode_is_the_same_and_learns(name, given):
    made = []
    for inside in (False, True):
        torch.manual_seed(3)
        act, make = MAKERS[name]
        model = network(act())
        with torch.inference_mode(inside):
            made.append(make(model, X.clone() if given == "inside" else X))
    for (key, one), two in zip(*(m.state_dict().items() for m in made), strict=True):
        torch.testing.assert_close(one, two[1], rtol=0, atol=0, msg=key)
    made[1].train()(X).sum().backward()
    torch.optim.SGD(made[1].parameters(), 0.1).step()


FITS = {
    **{n: lambda z, n=n: calibration.create(n).fit(z, Y) for n in calibration.names()},
    "quantile_classifier": lambda z: calibration.QuantileClassifier(4, 4, steps=3).fit(z, Y),
    "quantprob": lambda z: calibration.QuantProb(4, 4, steps=3).fit(z, Y),
}


@pytest.mark.parametrize("fitted_in", [True, False])
@pytest.mark.parametrize("name", FITS)
@pytest.mark.filterwarnings("ignore:(.* is fitted on 80 samples|the likelihood still)")
def test_calibrators_fit_tensors_of_inference_mode(name, fitted_in):
    def predict(method):
        return getattr(method, "predict_proba", method.predict)(Z)

    with torch.inference_mode():
        z = Z.clone()
    with torch.inference_mode(fitted_in):
        found = predict(FITS[name](z))
    # Iterative fits round by where their tensors lie in memory, in any mode.
    torch.testing.assert_close(found, predict(FITS[name](Z)), rtol=1e-9, atol=1e-12)


def test_slopes_are_read_in_inference_mode():
    with torch.inference_mode():
        found = signal.slope_moment(torch.sin)
    assert found == pytest.approx((1 + torch.e**-2) / 2, abs=1e-9)  # E[cos(Z)^2]
