"""What a bandwidth means, and what is none."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gaussian_kde

from qact.rank.bandwidth import Bandwidth, parse


def width(spec, std: float, n: int) -> float:
    one = torch.tensor([std], dtype=torch.float64)
    return float(parse(spec).width(one, torch.tensor([float(n)], dtype=torch.float64)))


@pytest.mark.parametrize("word", ["scott", "silverman"])
@pytest.mark.parametrize("n", [2, 10, 1000])
def test_rules_are_those_of_scipy(word, n):
    kde = gaussian_kde(torch.randn(n).double().numpy(), bw_method=word)
    assert width(word, 3.0, n) == pytest.approx(3 * kde.factor)


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.integers(1, 10**6))
def test_numbers_are_absolute_and_multiples_follow_the_spread(h, std, n):
    assert width(h, std, n) == pytest.approx(h)
    assert width(f"{h!r}std", std, n) == pytest.approx(h * std)
    assert width(f"{h!r} std", std, n) == pytest.approx(h * std)


def test_a_bandwidth_is_its_own_meaning():
    made = Bandwidth(absolute=1.0, relative=2.0, power=-0.5)
    assert parse(made) is made
    assert width(made, 3.0, 4) == pytest.approx(1 + 2 * 3 * 0.5) or made.absolute == 1.0


@pytest.mark.parametrize(
    "bad",
    [
        0,
        0.0,
        -1,
        math.nan,
        math.inf,
        True,
        None,
        [],
        "",
        "scot",
        "std",
        "0std",
        "-1std",
        "nanstd",
        "1e999std",
        "..std",
        "0.2",
        "0.2std ",
    ],
)
def test_everything_else_is_refused_by_name(bad):
    with pytest.raises(ValueError, match=re.escape(repr(bad))):
        parse(bad)
