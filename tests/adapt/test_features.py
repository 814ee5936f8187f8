"""The layer before the logits: found, named, or missed in words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qact import adapt

X = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Linear layers that are defined in another order than they are called in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.body, self.unused = nn.Linear(4, 2), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).tanh())


class First(Net):
    """The head is defined first."""

    def __init__(self) -> None:
        super().__init__()
        del self.unused


@pytest.mark.parametrize("name", ["lame", "t3a"])
def test_a_layer_that_does_not_make_the_logits_is_refused(name):
    with pytest.raises(ValueError, match=r"was not called, .* shape \(7, 2\); name .* head="):
        adapt.create(name, Net())(X)
    with pytest.raises(ValueError, match=r"Linear\(in_features=3, out_features=4.* \(7, 3\)"):
        adapt.create(name, First())(X)
    assert adapt.create(name, Net(), head="head")(X).shape == (7, 2)


def test_templates_need_one_feature_vector_per_sample():
    class Tokens(First):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, None].expand(-1, 5, -1)).mean(1)

    with pytest.raises(ValueError, match=r"was given \(7, 5, 4\); expected \(N, D\)"):
        adapt.create("t3a", Tokens(), head="head")(X)
    assert adapt.create("lame", Tokens(), head="head")(X).shape == (7, 2)


class Wrapped(nn.Module):
    """A norm, and logits in another form than a tensor (N, C)."""

    def __init__(self, form: type | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.bn, self.head = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.form = form

    def forward(self, x: Tensor) -> object:
        logits = self.head(self.bn(self.body(x)))
        return logits[:, :, None] if self.form is None else self.form(logits=logits)


@pytest.mark.parametrize("name", [name for name in adapt.methods() if name != "aqr"])
def test_what_is_no_logits_is_refused_before_anything_is_learnt(name):
    for form, error, text in (
        (dict, TypeError, r"returned dict; expected a tensor of logits \(N, C\)"),
        (None, ValueError, r"of shape \(7, 2, 1\) for 7 samples; expected logits"),
    ):
        method = adapt.create(name, Wrapped(form).eval())
        before = [p.detach().clone() for p in method.model.parameters()]
        with pytest.raises(error, match=text):
            method(X)
        assert all(
            torch.equal(a, b) for a, b in zip(before, method.model.parameters(), strict=True)
        )
