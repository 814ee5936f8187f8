"""MNIST-C's corruptions against scikit-image, scipy and loops, and the promises they share."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage

from qact.corruptions.affine import about_centre, warp
from qact.corruptions.edges import canny
from qact.corruptions.glass import swapped
from qact.corruptions.lines import dotted, zigzag
from qact.corruptions.random import Draws
from qact.corruptions.registry import entry
from qact.shift import corrupt_mnist, corruptions, load

NAMES = corruptions("mnist")


@pytest.fixture(scope="module")
def digits():
    return load("digits", 28).test[0][:24].float() / 255


def test_names_and_published_severities():
    assert len(NAMES) == 16
    usual = {name: entry(f"mnist/{name}").usual for name in NAMES}
    assert entry("mnist/shot_noise").constant(usual["shot_noise"], 28) == 3
    assert entry("mnist/rotate").constant(usual["rotate"], 28) == 0.4
    assert usual["stripe"] is None


@pytest.mark.parametrize("name", NAMES)
def test_bits_do_not_depend_on_batch_or_order(name, digits):
    index = torch.arange(50, 74)
    whole = corrupt_mnist(digits, name, seed=5, index=index)
    parts = [
        corrupt_mnist(a, name, seed=5, index=i)
        for a, i in zip(digits.split([1, 7, 16]), index.split([1, 7, 16]), strict=True)
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(whole, torch.round(whole * 255) / 255)
    assert torch.equal(corrupt_mnist(digits, name, 0), digits)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 28), (32, 32), (64, 64)])
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"fog"}))
def test_any_size(name, size):
    x = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    for severity in (None, 1, 5):
        y = corrupt_mnist(x, name, severity)
        assert y.shape == x.shape
        assert y.isfinite().all()


def test_fog_is_a_corner_of_a_large_plasma(digits):
    y = corrupt_mnist(digits[:2, :, :5, :7], "fog")
    assert y.shape == (2, 1, 5, 7)
    assert y.std() > 0


def test_canny_equals_scikit_image(digits):
    feature = pytest.importorskip("skimage.feature")
    noise = torch.rand(8, 28, 28, generator=torch.Generator().manual_seed(1))
    x = torch.cat([digits[:, 0], (noise * 0.3 + 0.5 * digits[:8, 0]).clamp(0, 1)])
    theirs = np.stack([feature.canny(image.double().numpy()) for image in x])
    assert (canny(x).numpy() == theirs).mean() > 0.999


def test_warp_equals_scipy(digits):
    g = torch.Generator().manual_seed(0)
    linear = torch.eye(2, dtype=torch.float64) + torch.randn(8, 2, 2, generator=g).double() * 0.3
    matrix = about_centre(linear, 28, 28)
    ours = warp(digits[:8], matrix)[:, 0]
    flip = [1, 0]  # scipy has rows first, warp columns
    for image, m, y in zip(digits[:8, 0], matrix.numpy(), ours, strict=True):
        black = np.pad(image.double().numpy(), 30)
        linear, start = m[flip][:, flip], m[flip, 2] + 30
        theirs = ndimage.affine_transform(black, linear, start, output_shape=(28, 28), order=1)
        assert np.abs(y.numpy() - theirs).max() < 1e-4


def test_shear_and_rotate_go_to_both_sides_and_scale_keeps_the_centre(digits):
    x = torch.zeros(40, 1, 29, 29)
    x[:, :, 10:19, 10:19] = 1
    for name in ("shear", "rotate"):
        y = corrupt_mnist(x, name, 3)
        assert len(torch.unique(y, dim=0)) == 2
        assert torch.allclose(y[:, 0, 14, 14], torch.ones(40))
    y = corrupt_mnist(x[:1], "scale", 5)
    assert y.sum().item() == 25  # every second of 9 x 9 pixels


def test_translate_moves_by_whole_pixels(digits):
    y = corrupt_mnist(digits, "translate", 3)
    moved = {(a, b): torch.roll(digits, (a, b), (2, 3)) for a in (-3, 3) for b in (-3, 3)}
    inner = (..., slice(4, -4), slice(4, -4))
    for i in range(len(digits)):
        assert any(torch.allclose(y[i][inner], m[i][inner], atol=1e-6) for m in moved.values())


def test_stripe_inverts_the_outer_quarters(digits):
    y = corrupt_mnist(digits, "stripe")
    assert torch.allclose(y[..., :7], 1 - digits[..., :7], atol=1e-6)
    assert torch.allclose(y[..., 21:], 1 - digits[..., 21:], atol=1e-6)
    assert torch.allclose(y[..., 7:21], digits[..., 7:21], atol=1e-6)


def _line(c0, r0, c1, r1):
    rows, columns = np.mgrid[:28, :28].astype(float)
    away = np.abs(rows - ((r1 - r0) / (c1 - c0) * (columns - c0) + r0))
    out = np.where(away < 2.3, 1 + np.log(np.maximum(1 - away / 2.3, 1e-300)), 0).clip(0, 1)
    out[:, : math.floor(c0)] = 0
    out[:, math.ceil(c1) :] = 0
    return out


def test_glass_leaves_every_plain_level_as_it_is():
    x = (torch.arange(256.0) / 255).view(-1, 1, 1, 1).expand(-1, 1, 9, 9)
    for severity in range(1, 6):
        assert torch.equal(corrupt_mnist(x, "glass_blur", severity), x)


@pytest.mark.parametrize("side", [18, 36, 58, 116, 28])
def test_dots_are_two_pixels_of_28_long(side):
    lines = dotted(Draws(0, "t", torch.arange(200)), side, side).amax((0, 1))
    shown = torch.tensor([(28 * column // side) // 2 % 2 == 1 for column in range(side - 1)])
    assert torch.equal(lines[:-1] > 0, shown)


def test_dotted_lines_equal_their_formula():
    index = torch.arange(6)
    ends = Draws(0, "t", index).integers(27, 2).tolist()
    for (first, last), ours in zip(ends, dotted(Draws(0, "t", index), 28, 28), strict=True):
        theirs = _line(0, first, 27, last)
        theirs[:, [c for c in range(28) if c // 2 % 2 == 0]] = 0
        assert np.abs(ours.numpy() - theirs).max() < 1e-3


def test_a_flat_zigzag_goes_up_and_down_by_two():
    index = torch.arange(200)
    draws = Draws(0, "t", index)
    start, slope = draws.integers(27), draws.integers(10)
    flat = int((slope == 5).nonzero()[0])
    ours = zigzag(Draws(0, "t", index), 28, 28)[flat].double().numpy()
    corners = [(2, 0), *((4 + 4 * i, 2 * (-1) ** i) for i in range(6)), (25, -2 / 6)]
    total = np.zeros((28, 28))
    for (c0, r0), (c1, r1) in pairwise(corners):
        total += _line(c0, r0 + int(start[flat]), c1, r1 + int(start[flat]))
    assert np.abs(ours - total.clip(0, 1)).max() < 1e-5


def test_swaps_equal_a_loop_and_lose_nothing():
    h, w, delta = 8, 9, 2
    index = torch.arange(4)
    draws = Draws(0, "s", index)
    step, moved = draws.integers(2 * delta, 2, h * w) - delta, draws.bits(h * w) >= 0
    source = swapped(Draws(0, "s", index), delta, h, w)
    for n in range(4):
        image = list(range(h * w))
        for i in range(h - delta, delta, -1):
            for j in range(w - delta, delta, -1):
                p = i * w + j
                if moved[n, p]:
                    q = p + int(step[n, 0, p]) * w + int(step[n, 1, p])
                    image[p], image[q] = image[q], image[p]
        assert source[n].tolist() == image
        assert sorted(image) == list(range(h * w))


def test_bad_requests(digits):
    with pytest.raises(ValueError, match="unknown corruption 'zigzig'; did you mean 'zigzag'"):
        corrupt_mnist(digits, "zigzig")
    with pytest.raises(ValueError, match="severity must be an integer from 0 to 5, got 6"):
        corrupt_mnist(digits, "shear", 6)
    with pytest.raises(ValueError, match=r"grey images \(N, 1, H, W\), got \(24, 3, 28, 28\)"):
        corrupt_mnist(digits.expand(24, 3, 28, 28), "shear")
    with pytest.raises(TypeError, match="images / 255"):
        corrupt_mnist((digits * 255).byte(), "shear")
