"""Augmentation: every operation against Pillow, and the promises of seeds and batches."""

import numpy as np
import pytest
import torch

from qact.corruptions.augment import AUGMENTATIONS, augment, crop, flip
from qact.corruptions.augmix import OPERATIONS, TABLES, mapped, tabled
from qact.corruptions.random import Draws

LEVELS = torch.linspace(0.01, 0.3, 12)


@pytest.fixture(scope="module")
def pictures():
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (12, 3, 32, 32), generator=g, dtype=torch.uint8)
    x[::2] = (x[::2].float() * 0.4 + 40).byte()  # room for autocontrast
    x[0] = 77
    return x


def by_pillow(name, image, level):
    from PIL import Image, ImageOps

    x, middle = Image.fromarray(image.permute(1, 2, 0).numpy()), Image.Resampling.BILINEAR
    affine = {
        "shear_x": (1, level * 0.3, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, level * 0.3, 1, 0),
        "translate_x": (1, 0, int(level * 32 / 3), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, int(level * 32 / 3)),
    }
    if name in affine:
        y = x.transform(x.size, Image.Transform.AFFINE, affine[name], resample=middle)
    elif name == "rotate":
        y = x.rotate(int(level * 30), resample=middle)
    elif name == "posterize":
        y = ImageOps.posterize(x, 4 - int(level * 4))
    elif name == "solarize":
        y = ImageOps.solarize(x, 256 - int(level * 256))
    else:
        y = getattr(ImageOps, name)(x)
    return np.asarray(y).transpose(2, 0, 1).astype(int)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_equal_pillow(name, pictures):
    which = torch.full((12,), OPERATIONS.index(name))
    ours = mapped(tabled(pictures, which, LEVELS), which, LEVELS, torch.ones(12).double())
    theirs = np.stack(
        [by_pillow(name, x, level) for x, level in zip(pictures, LEVELS.tolist(), strict=True)]
    )
    difference = np.abs(ours.numpy().astype(int) - theirs)
    if name in TABLES or name.startswith("translate"):
        assert not difference.any()
    else:  # Pillow's borders are hard, and its sums are rounded on the way
        assert difference[..., 6:-6, 6:-6].max() <= 1
        assert (difference > 1).mean() < 0.07


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_bits_follow_seed_epoch_and_index_alone(name, dtype, pictures):
    x = pictures if dtype == torch.uint8 else pictures.float() / 255
    index = torch.arange(100, 112)
    whole = augment(x, name, seed=1, epoch=2, index=index)
    assert whole.shape == x.shape
    assert whole.dtype == dtype
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    again = augment(x[order], name, seed=1, epoch=2, index=index[order])
    assert torch.equal(again, whole[order])
    assert torch.equal(augment(x[3:4], name, seed=1, epoch=2, index=index[3:4]), whole[3:4])
    if name != "none":
        assert not torch.equal(whole, augment(x, name, seed=1, epoch=3, index=index))
        assert not torch.equal(whole, augment(x, name, seed=2, epoch=2, index=index))


def test_augmix_is_the_same_on_every_image_or_on_chosen_ones(pictures):
    """What a GPU does, all images through every gather, gives what a CPU does."""
    chosen = augment(pictures, "augmix", seed=0)
    which = torch.arange(12) % len(OPERATIONS)
    level, sign = LEVELS, torch.ones(12).double()
    both = mapped(tabled(pictures, which, level), which, level, sign)
    for i, k in enumerate(which.tolist()):
        one = slice(i, i + 1)
        args = which[one], level[one]
        alone = (
            tabled(pictures[one], *args)
            if k < len(TABLES)
            else mapped(pictures[one], *args, sign[one])
        )
        assert torch.equal(both[one], alone)
    assert not torch.equal(chosen, pictures)


def test_crops_are_shifted_copies_with_black_borders():
    x = torch.rand(50, 1, 8, 8) + 0.1
    draws = Draws(0, "crop", torch.arange(50))
    move = Draws(0, "crop", torch.arange(50)).integers(5, 2) - 2
    for a, (down, right), b in zip(x, move.tolist(), crop(x, 2, draws), strict=True):
        padded = torch.nn.functional.pad(a, (2, 2, 2, 2))
        assert torch.equal(b, padded[:, 2 + down : 10 + down, 2 + right : 10 + right])
    assert len(move.unique(dim=0)) > 15


def test_half_of_the_images_are_mirrored():
    x = torch.rand(400, 1, 2, 3)
    y = flip(x, Draws(0, "flip", torch.arange(400)))
    mirrored = (y == x.flip(3)).flatten(1).all(1)
    assert 150 < int(mirrored.sum()) < 250
    assert torch.equal(y[~mirrored], x[~mirrored])


def test_augmix_stays_near_the_image_in_the_mean():
    x = torch.full((200, 1, 16, 16), 0.5)
    y = augment(x, "augmix", seed=0)
    assert y.min() >= 0
    assert y.max() <= 1
    assert 0.4 < y.mean() < 0.55


def test_small_grey_images_and_unknown_names():
    for size in (1, 2, 5):
        x = torch.rand(3, 1, size, size)
        assert augment(x, "crop_flip_augmix", seed=0).shape == x.shape
    with pytest.raises(ValueError, match="unknown augmentation 'augmic'; did you mean 'augmix'"):
        augment(x, "augmic", seed=0)
