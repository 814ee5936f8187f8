"""Longer sequences than in training: the same patches, only more of them."""

from __future__ import annotations

import pytest
import torch

from qact.models import ViT, create


def net() -> ViT:
    torch.manual_seed(0)
    return ViT(2, 12, 3, 1, 4, image_size=16).eval()


def test_patches_and_places_of_a_denser_cut():
    model, x = net(), torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(model.denser(4)(x), model(x))
    old = model.places[0, 1:].unflatten(0, (4, 4))
    for stride, every in ((2, 2), (1, 4)):
        new = model.denser(stride)
        n = 12 // stride + 1
        assert new.places.shape[1] == n * n + 1
        assert new(x).shape == (2, 4)
        grid = new.places[0, 1:].unflatten(0, (n, n))
        torch.testing.assert_close(grid[::every, ::every], old)  # where a patch was, it stays
        torch.testing.assert_close(grid[0, every // 2], (old[0, 0] + old[0, 1]) / 2)  # half way
        torch.testing.assert_close(
            new.patches(x)[..., ::every, ::every], model.patches(x), rtol=1e-5, atol=1e-6
        )
    assert model.patches.stride == (4, 4)


def test_bad_input():
    with pytest.raises(ValueError, match="stride=5 must be at most the patch of 4"):
        net().denser(5)
    with pytest.raises(ValueError, match="'relu' is for attention, and this"):
        create("lenet", normaliser="relu")
    assert create("vit_tiny", width_multiplier=0.05, normaliser="elu").blocks[0].attention.form
