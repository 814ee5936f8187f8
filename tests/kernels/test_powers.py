"""Powers and logarithms of the CPU kernels against float64."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")
from numba import njit

from qact.kernels.cpu import powers


@njit
def _each(x, e):  # type: ignore[no-untyped-def]
    out = np.empty((3, x.size), np.float32)
    for i in range(x.size):
        out[0, i] = powers.log2(x[i])
        out[1, i] = powers.exp2(e[i])
        out[2, i] = powers.power(x[i], e[i])
    return out


def test_powers_are_those_of_float64():
    rng = np.random.default_rng(0)
    x = np.exp2(rng.uniform(-126, 127, 20_000)).astype(np.float32)
    x = np.concatenate([x, np.exp2(rng.uniform(-1, 1, 20_000)).astype(np.float32)])
    x[:4] = 1, 2**-126, 0.5, 2
    e = rng.uniform(-1, 1, x.size).astype(np.float32) * 126 / np.abs(np.log2(x)).clip(1)
    log, exp, power = _each(x, e.astype(np.float32))
    wide, by = x.astype(np.float64), e.astype(np.float64)
    assert np.abs(log - np.log2(wide)).max() / 126 < 1e-7
    near = np.abs(np.log2(wide)) < 1
    assert np.abs(log - np.log2(wide))[near].max() < 2e-7
    np.testing.assert_allclose(exp, np.exp2(by), rtol=2e-7)
    np.testing.assert_allclose(power, wide**by, rtol=1e-5)


def test_what_is_not_above_zero_has_the_power_zero():
    x = np.array([0, -1, -np.inf, 1e-45], np.float32)
    e = np.array([0.5, 2, 1, 1], np.float32)
    assert _each(x, e)[2].max() < 2e-38
