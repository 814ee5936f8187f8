"""What cannot be augmented is one error that repeats it."""

import pytest
import torch

from qact.corruptions.augment import AUGMENTATIONS, augment

X = torch.rand(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (255 * X + 1, r"images must lie in \[0, 1\], got "),
        (X * torch.nan, r"images must lie in \[0, 1\], got nan"),
        ((255 * X).long(), "images must be uint8 or a floating tensor .* got torch.int64"),
        (X.numpy(), "images must be uint8 or a floating tensor .* got ndarray"),
        (X[0], r"images must have shape \(N, C, H, W\), got \(3, 8, 8\)"),
    ],
)
@pytest.mark.parametrize("name", AUGMENTATIONS.names())
def test_what_is_no_batch_of_images(name, images, message):
    with pytest.raises((TypeError, ValueError), match=message):
        augment(images, name, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": "x"}, "seed='x' must be an integer"),
        ({"epoch": 1.5}, "epoch=1.5 must be an integer"),
        ({"index": [0, 1]}, "index must be a LongTensor"),
        ({"index": torch.tensor([0])}, r"index must have shape \(2,\)"),
    ],
)
def test_what_does_not_seed(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        augment(X, "flip", **{"seed": 0, **options})
