"""The handwritten digits of scikit-learn: 1,797 of 8 x 8, resized."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from qact import checks, extras
from qact.datasets.arrays import part
from qact.datasets.registry import register
from qact.datasets.splits import SPLIT_SEED, Splits, stratified_order


@register(
    "digits", paper="Alpaydin and Kaynak 1998, UCI: Optical Recognition of Digits", sized=True
)
def digits(root: Path | None, size: int | None, limit: int | None) -> Splits:
    """1000, 297 and 500 images, stratified by class with a fixed seed, of side 32 by default."""
    with extras.needed("data='digits'", "sklearn"):
        from sklearn.datasets import load_digits
    bunch, side = load_digits(), 32 if size is None else size
    checks.room(f"size={side} for {len(bunch.images)} images", 4 * len(bunch.images) * side**2)
    images = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)
    images = interpolate(images, (side, side), mode="bilinear", align_corners=False)
    order = stratified_order(bunch.target, SPLIT_SEED)
    whole = (images.round().to(torch.uint8).numpy(), bunch.target.astype(np.int64))
    train, val, test = (np.sort(i) for i in np.split(order, [1000, 1297]))
    parts = [part(whole, i) for i in (train[:limit], val, test[:limit])]
    return Splits("digits", parts[0], parts[1], parts[2], tuple("0123456789"))
