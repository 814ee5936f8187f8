"""The corruptions against ``imagecorruptions``, an independent implementation with other authors.

It has the constants of ImageNet-C for every size of image and cuts decimals where we round.
"""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from qact.corruptions.apply import _apply
from qact.corruptions.registry import constants, entry


def _beside(name):
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = _beside("package").load()
except ImportError as error:  # not installed, or OpenCV without its system libraries
    pytest.skip(f"no imagecorruptions: {error}", allow_module_level=True)


@pytest.fixture(scope="module")
def pictures():
    from scipy import ndimage

    rng = np.random.default_rng(0)
    x = sum(
        (1 + sigma)
        * ndimage.gaussian_filter(rng.normal(size=(24, 3, 64, 64)), (0, 0, sigma, sigma))
        for sigma in (0, 1, 3, 8)
    )
    x = np.clip(0.5 + 0.15 * x + rng.uniform(-0.2, 0.2, (24, 3, 1, 1)), 0, 1)
    return torch.from_numpy(np.round(x * 255)).float() / 255


def both(x, name, severity):
    from PIL import Image

    constant = constants(name, severity, 224)
    ours = _apply(entry(name).make, constant, name, x, 0, torch.arange(len(x)))
    np.random.seed(severity)
    theirs = []
    for image in x:
        picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
        theirs.append(np.uint8(getattr(package, name)(picture, severity)))
    return ours * 255, torch.from_numpy(np.stack(theirs)).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize(
    "name",
    [
        "brightness",
        "contrast",
        "saturate",
        "jpeg_compression",
        "pixelate",
        "gaussian_blur",
        "defocus_blur",
    ],
)
def test_what_is_not_random_agrees_to_a_level(name, severity, pictures):
    ours, theirs = both(pictures[:6], name, severity)
    difference = ours - theirs
    if name in ("jpeg_compression", "pixelate"):
        assert not difference.any()
    else:  # theirs are cut, and colours pass through HSV
        assert difference.abs().max() <= 1
        assert -0.01 < difference.mean() < 1


@pytest.mark.parametrize(
    "name",
    [
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "speckle_noise",
        "glass_blur",
        "motion_blur",
        "snow",
        "fog",
        "spatter",
    ],
)
def test_what_is_random_has_the_same_size(name, pictures):
    """Mean and root mean square of the change, over 24 images."""
    for severity in (1, 5):
        x = pictures[:4] if name == "glass_blur" else pictures
        ours, theirs = (y - x * 255 for y in both(x, name, severity))
        sizes = [change.square().mean().sqrt().item() for change in (ours, theirs)]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.1)
        apart = ours.mean((1, 2, 3)) - theirs.mean((1, 2, 3))
        error = apart.std().item() / len(x) ** 0.5
        assert abs(apart.mean().item()) < 0.6 + 4 * error  # theirs are cut: half a level
