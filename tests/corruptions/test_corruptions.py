"""Every corruption against a plain per-image reference, and the promises of ``corrupt``."""

import importlib.util
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from qact.corruptions import blur, corrupt, corruptions, elastic, glass
from qact.corruptions.random import Draws
from qact.corruptions.registry import (
    CORRUPTIONS,
    constants,
    entry,
    expanded,
    register,
    scale_of,
)

_spec = importlib.util.spec_from_file_location(
    "per_image", Path(__file__).with_name("per_image.py")
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

ALL = corruptions("all")
SEVERITIES = (1, 2, 3, 4, 5)


def pictures(n, channels=3, h=32, w=32, seed=0):
    """Images with the spectrum of photographs: smoothed noise at several scales, on 8 bits."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, channels, h, w))
    for sigma in (0, 1, 3, 8):
        layer = ndimage.gaussian_filter(rng.normal(size=x.shape), (0, 0, sigma, sigma))
        common = ndimage.gaussian_filter(rng.normal(size=(n, 1, h, w)), (0, 0, sigma, sigma))
        x += (layer * 0.4 + common) * (1 + 3 * sigma) * 0.1
    x = np.clip(x * 0.6 + rng.uniform(0.2, 0.8, (n, channels, 1, 1)), 0, 1)
    return torch.from_numpy(np.round(x * 255) / 255).float()


def by_reference(x, name, severity, seed=0):
    rng, constant = np.random.default_rng(seed), constants(name, severity, min(x.shape[-2:]))
    function = getattr(reference, name)
    out = [function(a.permute(1, 2, 0).double().numpy(), constant, rng) for a in x]
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).clamp(0, 1)


def rms(a, b):
    return (a.double() - b.double()).square().mean().sqrt().item()


# --- the plain reference -----------------------------------------------------------------------

# Largest difference in levels of 255: half a level of rounding, or none where bits must agree.
DETERMINISTIC = {
    "contrast": 0.501,
    "brightness": 0.501,
    "saturate": 0.501,
    "gaussian_blur": 0.501,
    "defocus_blur": 0.501,
    "zoom_blur": 0.501,
    "pixelate": 0.001,
    "jpeg_compression": 0.001,
}


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (33, 45), (9, 7), (64, 64)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_corruptions_equal_the_reference(name, channels, size):
    x = pictures(4, channels, *size)
    for severity in SEVERITIES:
        difference = (corrupt(x, name, severity) - by_reference(x, name, severity)).abs().max()
        assert difference * 255 <= DETERMINISTIC[name], severity


@pytest.mark.parametrize("name", sorted(set(DETERMINISTIC) - {"zoom_blur"}))
def test_imagenet_constants_equal_the_reference_at_224(name):
    x = pictures(1, 3, 224, 224)
    difference = (corrupt(x, name, 5) - by_reference(x, name, 5)).abs().max()
    assert difference * 255 <= DETERMINISTIC[name]


@pytest.mark.parametrize("quality", [1, 7, 49, 50, 95, 100])
@pytest.mark.parametrize("size", [(32, 32), (17, 23), (1, 1), (2, 31), (5, 6), (16, 50)])
def test_jpeg_equals_pillow_bit_for_bit(quality, size):
    from qact.corruptions.jpeg import jpeg_compression

    noise = torch.randint(0, 256, (3, 3, *size), generator=torch.Generator().manual_seed(0)) / 255
    for x in (noise, noise[:, :1], pictures(3, 3, *size)):
        out = jpeg_compression(x, quality, None).permute(0, 2, 3, 1).numpy()
        for ours, image in zip(out, x.permute(0, 2, 3, 1).numpy(), strict=True):
            theirs = reference.jpeg_compression(image, quality, None)
            assert np.array_equal(np.round(ours * 255), np.round(theirs * 255))


RANDOM = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur")
RANDOM += ("motion_blur", "fog", "snow", "elastic_transform")


@pytest.mark.parametrize("name", RANDOM)
def test_random_corruptions_have_the_reference_distribution(name):
    x = pictures(400)
    for severity in (1, 5):
        few = x[:150] if name == "glass_blur" else x
        ours, theirs = corrupt(few, name, severity), by_reference(few, name, severity)
        assert rms(ours, few) == pytest.approx(rms(theirs, few), rel=0.03), severity
        shift = (ours.double() - few).mean() - (theirs - few).mean()
        assert abs(shift) * 255 < 1.5, severity


def test_elastic_transform_equals_scipy_for_the_same_draws():
    x, index = pictures(8), torch.arange(8)
    for severity in SEVERITIES:
        alpha, sigma, reach = constants("elastic_transform", severity, 32)
        draws = Draws(0, f"elastic_transform/{severity}", index)
        moves = draws.uniform(3, 2, low=-reach, high=reach).double().numpy()
        field = np.zeros((8, 2, 32, 32))
        if alpha:
            noise = draws.uniform(2, 32, 32, low=-1.0, high=1.0).double().numpy()
            width = (0, 0, sigma, sigma)
            field = ndimage.gaussian_filter(noise, width, mode="reflect", truncate=3) * alpha
        images = x.permute(0, 2, 3, 1).double().numpy()
        theirs = [reference.warped(*each) for each in zip(images, moves, field, strict=True)]
        ours = corrupt(x, "elastic_transform", severity).permute(0, 2, 3, 1)
        assert np.abs(ours.numpy() - np.stack(theirs)).max() * 255 < 0.6


def test_motion_blur_equals_the_reference_for_the_same_angles():
    x, index = pictures(8), torch.arange(8)
    place = Draws(0, "motion_blur/4", index).integers(blur.ANGLES).double()
    angles = (-45 + 90 * (place + 0.5) / blur.ANGLES).tolist()
    ours = corrupt(x, "motion_blur", 4).permute(0, 2, 3, 1).double().numpy()
    for image, angle, result in zip(x, angles, ours, strict=True):
        theirs = reference.motion_with_angle(image.permute(1, 2, 0).numpy(), 8, 2, angle)
        assert np.abs(result - theirs).max() * 255 < 0.51


def test_glass_displacement_equals_a_loop():
    h, w, delta = 9, 11, 2
    x = torch.arange(5.0 * h * w).view(5, h * w)
    step = Draws(0, "glass", torch.arange(5)).integers(2 * delta, 2, h * w) - delta
    source = glass.displaced(Draws(0, "glass", torch.arange(5)), delta, h, w)
    for n in range(5):
        image = x[n].view(h, w).clone()
        for i in range(h - delta, delta, -1):
            for j in range(w - delta, delta, -1):
                dy, dx = step[n, :, i * w + j].tolist()
                image[i, j] = image[i + dy, j + dx]
        assert torch.equal(x[n, source[n]].view(h, w), image)


def every_level(side=9):
    """Plain pictures of all 256 levels, (256, 1, side, side)."""
    return (torch.arange(256.0) / 255).view(-1, 1, 1, 1).expand(-1, 1, side, side)


def blurred_by_glass(x, constant):
    out = glass.glass_blur(x, constant, Draws(0, "glass", torch.arange(len(x))))
    return out.mul(255).round().div(255)


@pytest.mark.parametrize("scale", ["cifar", "tiny_imagenet", "imagenet"])
def test_glass_leaves_every_plain_level_as_it_is(scale):
    x = every_level()
    for severity, constant in enumerate(entry("glass_blur").constants[scale], 1):
        assert torch.equal(blur.smooth_levels(x, constant[0]), x), severity
        assert torch.equal(blurred_by_glass(x, constant), x), severity


@pytest.mark.parametrize("sigma", [0.05, 0.25, 0.4, 0.7, 1.1, 1.5])
def test_the_levels_that_glass_cuts_to_are_those_of_float64(sigma):
    noise = torch.randint(0, 256, (40, 1, 16, 16), generator=torch.Generator().manual_seed(1))
    for x in (noise / 255, pictures(20)):
        exact = ndimage.gaussian_filter(x.double().numpy(), (0, 0, sigma, sigma), mode="nearest")
        exact = torch.from_numpy(exact) * 255
        whole = exact.round()  # where float64 itself may fall to either side
        exact = torch.where((exact - whole).abs() < 1e-4, whole, exact)
        ours = blur.smooth_levels(x, sigma).double() * 255
        # What lies within 2^-12 below a level counts as that level: one value in 4,096.
        assert (ours.round() - exact.floor()).ne(0).double().mean() < 1e-3
        assert ((ours - exact) < 2.0**-11).all()
        assert ((ours - exact) > -1).all()


def test_snow_without_flakes_pales_the_image():
    # With seed and image fixed, what snow adds is the same on every image.
    x = pictures(2)
    same = corrupt(torch.zeros(2, 3, 32, 32), "snow", 1)
    pale = 0.95 * x + 0.05 * torch.maximum(
        x, (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, True) * 1.5 + 0.5
    )
    flakes = same - 0.05 * 0.5
    free = (pale + flakes < 1) & (same < 1)
    assert ((corrupt(x, "snow", 1) - pale - flakes).abs() * free).max() * 255 < 1.01


@pytest.mark.parametrize("border", ["mirror", "reflect"])
@pytest.mark.parametrize("size", [(8, 8), (5, 9), (1, 4), (1, 1)])
def test_sample_equals_map_coordinates(border, size):
    x, g = torch.rand(2, 3, *size), torch.Generator().manual_seed(0)
    y, z = (torch.rand(2, 2, *size, generator=g) * 60 - 30).unbind(0)
    ours = elastic.sample(x, y, z, border)
    for n in range(2):
        for c in range(3):
            at = y[n].numpy(), z[n].numpy()
            theirs = ndimage.map_coordinates(x[n, c].numpy(), at, order=1, mode=border)
            assert np.abs(ours[n, c].numpy() - theirs).max() < 1e-4


def test_smooth_equals_scipy():
    x = pictures(2, 3, 13, 20)
    for sigma in (0.1, 0.7, 2.0, 9.0):
        for border, mode in (("nearest", "nearest"), ("reflect", "reflect"), ("mirror", "mirror")):
            theirs = ndimage.gaussian_filter(x.double().numpy(), (0, 0, sigma, sigma), mode=mode)
            assert np.abs(blur.smooth(x, sigma, border).numpy() - theirs).max() < 1e-5


# --- promises ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_bits_do_not_depend_on_batch_or_order(name):
    x = pictures(23)
    index = torch.arange(100, 123)
    for severity in (1, 3, 5):
        whole = corrupt(x, name, severity, seed=3, index=index)
        pieces = x.split([1, 7, 15]), index.split([1, 7, 15])
        again = [corrupt(a, name, severity, seed=3, index=i) for a, i in zip(*pieces, strict=True)]
        assert torch.equal(torch.cat(again), whole)
        order = torch.randperm(23, generator=torch.Generator().manual_seed(severity))
        assert torch.equal(
            corrupt(x[order], name, severity, seed=3, index=index[order]), whole[order]
        )
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        assert torch.equal(corrupt(x, name, severity, seed=3, index=index), whole)
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ALL)
def test_a_long_batch_is_cut_without_a_trace(name, monkeypatch):
    x = pictures(9)
    whole = corrupt(x, name, 5)
    monkeypatch.setattr("qact.corruptions.apply._CHUNK", (4 * 3 * 32 * 32, 1))
    assert torch.equal(corrupt(x, name, 5), whole)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8), (28, 28), (33, 33), (64, 64), (5, 40)])
@pytest.mark.parametrize("name", ALL)
def test_every_corruption_on_grey_and_colour_of_any_size(name, size):
    for channels in (1, 3):
        x = pictures(3, channels, *size)
        for severity in (1, 5):
            y = corrupt(x, name, severity)
            assert y.shape == x.shape
            assert y.dtype == x.dtype
            assert y.min() >= 0
            assert y.max() <= 1
            assert torch.equal(y, torch.round(y * 255) / 255)


@pytest.mark.parametrize("name", ALL)
def test_colour_of_equal_channels_keeps_them_equal(name):
    x = pictures(4, 1).expand(4, 3, 32, 32)
    y = corrupt(x, name, 3)
    coloured = {
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "speckle_noise",
        "frost",
        "spatter",
    }
    assert bool((y[:, 0] == y[:, 2]).all()) == (name not in coloured)


# The published constants of the others do not grow in every component.
STEADY = sorted(
    set(ALL) - {"saturate", "elastic_transform", "snow", "spatter", "glass_blur", "frost"}
)


@pytest.mark.parametrize("name", STEADY)
def test_severity_is_monotone(name):
    x = pictures(300)
    steps = [rms(corrupt(x, name, severity), x) for severity in SEVERITIES]
    slack = 0.99 if name == "motion_blur" else 1.0  # (6, 2) to (8, 2) adds taps of weight 1e-4
    assert all(b > a * slack for a, b in pairwise(steps)), steps
    assert steps[4] > 1.2 * steps[0]


@pytest.mark.parametrize("name", ALL)
def test_images_that_are_one_value_stay_finite(name):
    for value in (0.0, 1.0, 0.5):
        x = torch.full((2, 3, 32, 32), value)
        for severity in SEVERITIES:
            assert corrupt(x, name, severity).isfinite().all()


@pytest.mark.parametrize("name", ["saturate"])
def test_grey_has_no_saturation(name):
    x = pictures(2, 1)
    assert torch.equal(corrupt(x, name, 5), x)


def test_severity_zero_and_empty_batches():
    x = pictures(2)
    assert corrupt(x, "fog", 0) is x
    assert corrupt(x[:0], "fog", 3).shape == (0, 3, 32, 32)


def test_dtypes():
    x = pictures(3)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        y = corrupt(x.to(dtype), "contrast", 3)
        assert y.dtype == dtype
    assert (corrupt(x.double(), "fog", 3) - corrupt(x, "fog", 3)).abs().max() < 1e-7


def test_images_are_not_changed_in_place():
    x = pictures(2)
    kept = x.clone()
    for name in ALL:
        corrupt(x, name, 5)
        assert torch.equal(x, kept), name


def test_images_that_require_a_gradient_and_inference_mode():
    x = pictures(2)
    with torch.inference_mode():  # the first call fills the tables
        first = [corrupt(x, name, 4) for name in ALL]
    for name, y in zip(ALL, first, strict=True):
        again = corrupt(x.clone().requires_grad_(), name, 4)
        assert not again.requires_grad
        assert torch.equal(again, y)


def test_non_contiguous_images():
    x = pictures(4).to(memory_format=torch.channels_last)
    for name in ALL:
        assert torch.equal(corrupt(x, name, 2), corrupt(x.contiguous(), name, 2)), name


def test_randomness_follows_seed_severity_and_index():
    x = torch.full((2, 1, 16, 16), 0.5)
    y = corrupt(x, "gaussian_noise", 1)
    assert not torch.equal(y[0], y[1])
    assert not torch.equal(y, corrupt(x, "gaussian_noise", 1, seed=1))
    assert not torch.equal(y, corrupt(x, "gaussian_noise", 1, index=torch.tensor([2, 3])))
    noise = [(corrupt(x, "gaussian_noise", s) - x).flatten() for s in (4, 5)]
    assert abs(torch.corrcoef(torch.stack(noise))[0, 1]) < 0.3


def ice(count, size=32):
    """The texture of severity 5 on black, before the weight of the image would cut it."""
    return corrupt(torch.zeros(count, 3, size, size), "frost", 5) / (0.45 if size < 46 else 0.55)


def test_frost_is_bright_and_varies():
    y = ice(500)
    assert y.mean().item() == pytest.approx(0.632, abs=0.03)  # that of the published photographs
    assert y.std((2, 3)).mean().item() == pytest.approx(0.088, abs=0.01)
    assert y.mean((2, 3)).std(0).mean() > 0.05
    assert (y[:, 2] >= y[:, 0]).float().mean() > 0.9  # bluish


@pytest.mark.parametrize("size", [32, 64])
def test_frost_has_the_spectrum_of_the_photographs(size):
    """Ratio of the power of rings, an octave wide, to that of crops of the pictures."""
    cv2, found = pytest.importorskip("cv2"), importlib.util.find_spec("imagecorruptions")
    if found is None:
        pytest.skip("no imagecorruptions")
    rng, crops = np.random.default_rng(0), []
    for name in ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg"):
        scale = 0.2 if size == 32 else 0.3
        picture = cv2.imread(str(Path(found.origin).parent / "frost" / name))[..., ::-1]
        picture = cv2.resize(picture, (0, 0), fx=scale, fy=scale) / 255
        for _ in range(150):
            i, j = (rng.integers(0, n - size) for n in picture.shape[:2])
            crops.append(picture[i : i + size, j : j + size])
    theirs, ours = np.stack(crops), ice(750, size).permute(0, 2, 3, 1).double().numpy()
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(size)] * 2))
    window = np.outer(np.hanning(size), np.hanning(size))[..., None]
    for edge in (0.5, 0.25, 0.125):
        ring = (frequency > edge / 2) & (frequency <= edge)
        one, two = (
            (np.abs(np.fft.fft2((x - x.mean((1, 2), keepdims=True)) * window, axes=(1, 2))) ** 2)
            .mean((0, 3))[ring]
            .mean()
            for x in (ours, theirs)
        )
        assert 0.75 < one / two < 1.35, edge


# --- names, constants, errors --------------------------------------------------------------------


def test_names():
    assert len(corruptions()) == 15
    assert len(corruptions("holdout")) == 4
    assert corruptions() + corruptions("holdout") == ALL
    with pytest.raises(
        ValueError, match="unknown group of corruptions 'holduot'; did you mean 'ho"
    ):
        corruptions("holduot")


@pytest.fixture
def own():
    """A corruption of a user's."""

    @register("darker", paper="a dark room", constants=[0.9, 0.8, 0.7, 0.6, 0.5])
    def darker(x, factor, draws):
        return x * factor

    yield "darker"
    CORRUPTIONS.remove("darker")


def test_a_corruption_of_ones_own(own):
    x = pictures(3)
    assert corruptions("own") == (own,)
    assert own not in corruptions("all")
    assert expanded(["own"]) == [own]
    assert (corrupt(x, own, 5) - x / 2).abs().max() * 255 <= 0.5001
    assert entry(own).paper == "a dark room"
    with pytest.raises(ValueError, match="did you mean 'darker'"):
        corrupt(x, "draker", 1)
    for name in (own, "fog"):
        with pytest.raises(ValueError, match=f"{name!r} is registered already"):
            register(name, paper="again", constants=[1] * 5)(lambda x, c, draws: x)
    with pytest.raises(ValueError, match="must name its constants"):
        register("none", paper="a paper")(lambda x, c, draws: x)


def test_every_entry_names_its_paper_and_five_constants():
    for name in CORRUPTIONS.names():
        found = entry(name)
        assert "arXiv" in found.paper
        assert all(
            found.constant(s, 32) is found.constant(s, 32) or found.of_side for s in SEVERITIES
        )
    assert {n.removeprefix("mnist/") for n in CORRUPTIONS.names("mnist/*")} == set(
        corruptions("mnist")
    )
    assert set(CORRUPTIONS.names()) - set(CORRUPTIONS.names("mnist/*")) == set(ALL)


def test_importing_corruptions_imports_no_compiler():
    code = "import qact.corruptions as c, sys; c.names(); print('numba' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "False", run.stderr


def test_constants_by_size():
    assert [scale_of(s) for s in (1, 28, 32, 45, 46, 64, 119, 120, 224, 384)] == (
        ["cifar"] * 4 + ["tiny_imagenet"] * 3 + ["imagenet"] * 3
    )
    assert constants("snow", 5, 32) == (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)
    assert constants("shot_noise", 2, 64) == 100
    assert constants("elastic_transform", 1, 224) == pytest.approx((488, 170.8, 24.4))
    assert constants("elastic_transform", 5, 32) == pytest.approx((3.2, 0.96, 0.96))
    assert len(constants("zoom_blur", 1, 32)) == len(np.arange(1, 1.06, 0.01))
    for name in ALL:
        for size in (32, 64, 224):
            assert len({constants(name, s, size) for s in SEVERITIES}) >= 4


@pytest.mark.parametrize("severity", [6, -1, 1.5, "3", None, True])
def test_bad_severity(severity):
    with pytest.raises(ValueError, match=f"severity must be .*{severity!r}"):
        corrupt(pictures(1), "fog", severity)


def test_lists_are_neither_names_nor_severities():
    with pytest.raises(ValueError, match="severity must be"):
        corrupt(pictures(1), "fog", torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"unknown corruption \['fog'\]"):
        corrupt(pictures(1), ["fog"], 1)


def test_unknown_name_suggests_close_ones():
    with pytest.raises(ValueError, match=r"'gausian_noise'.*did you mean 'gaussian_noise'"):
        corrupt(pictures(1), "gausian_noise", 1)
    with pytest.raises(ValueError, match="unknown corruption 'zzz'; known: gaussian_noise"):
        corrupt(pictures(1), "zzz", 1)
    with pytest.raises(ValueError, match="'zzz'"):
        constants("zzz", 1, 32)
    with pytest.raises(ValueError, match="got 0"):
        constants("fog", 0, 32)


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 2, 8, 8), (2, 3, 0, 8), (1, 3, 8, 8, 1)])
def test_bad_shape(shape):
    with pytest.raises(ValueError, match=str(shape).replace("(", r"\(").replace(")", r"\)")):
        corrupt(torch.zeros(shape), "fog", 1)


def test_bad_dtype_and_range():
    with pytest.raises(TypeError, match=r"torch.uint8; use images / 255"):
        corrupt(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "fog", 1)
    with pytest.raises(TypeError, match="ndarray"):
        corrupt(np.zeros((1, 3, 8, 8)), "fog", 1)
    for value in (1.5, -0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
            corrupt(torch.full((1, 3, 8, 8), value), "fog", 1)


def test_bad_seed():
    for seed in (1.5, "1", None):
        with pytest.raises(TypeError):
            corrupt(pictures(1), "fog", 1, seed=seed)


def test_bad_index():
    with pytest.raises(ValueError, match=r"shape \(2,\).*got \(3,\)"):
        corrupt(pictures(2), "fog", 1, index=torch.arange(3))
    for index in (torch.zeros(2), [0, 1]):
        with pytest.raises(TypeError, match="LongTensor"):
            corrupt(pictures(2), "fog", 1, index=index)
