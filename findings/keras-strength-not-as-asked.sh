#!/usr/bin/env bash
# keras 3.15.1: two augmentations of AutoAugment do not have the strength they are given.
# `RandomPosterization(factor)`, "integer, the number of bits to keep for each channel", draws the bits for each image
# from 1 to factor - 1, so that the number asked for is the one that never occurs. 400 images, every pixel value:
#   factor           1      2       4                         8
#   bits kept        1      1       1, 2, 3                   1, 2, .. 7      (at 8 an image should stay as it is)
# `Solarization(threshold_factor=(0.5, 0.5))`, "a value is sampled from the provided range", draws the threshold from
# 0.5 to 127.5: the lower end is not multiplied by 255, the upper end is. addition_factor likewise. 400 thresholds:
#   asked for (0.5, 0.5), that is 127.5     1 .. 128
#   asked for (0.9, 1.0), 229.5 to 255      2 .. 255
# So the severities of a benchmark are not what they are called. Way round: factor=(4, 4), which the documentation does
# not name, keeps 4 bits; for solarization Pillow's ImageOps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: \
    keras==3.15.1 jax==0.10.2 jaxlib==0.10.2 numpy==2.2.6 pillow==11.3.0
cd "$folder"
KERAS_BACKEND=jax "$folder/venv/bin/python" -W ignore - <<'PY'
import keras
import numpy as np
from PIL import Image, ImageOps

IMAGES = 400
values = np.arange(256, dtype="uint8").reshape(16, 16, 1)
batch = np.repeat(values[None].repeat(3, -1), IMAGES, 0)
posterized = {b: np.asarray(ImageOps.posterize(Image.fromarray(batch[0]), b)) for b in range(1, 9)}
print("keras", keras.__version__)
for factor in (1, 2, 4, 8, (4, 4)):
    out = np.asarray(keras.layers.RandomPosterization(factor, seed=0)(batch, training=True)).astype("uint8")
    kept = sorted({b for image in out for b, right in posterized.items() if np.array_equal(image, right)})
    print(f"RandomPosterization({factor}): bits kept {kept}")
    assert kept == ([1] if factor == 1 else [4] if factor == (4, 4) else list(range(1, factor))), kept
for low, high in ((0.5, 0.5), (0.9, 1.0)):
    layer = keras.layers.Solarization(threshold_factor=(low, high), seed=0)
    out = np.asarray(layer(batch, training=True))[..., 0].reshape(IMAGES, 256)
    thresholds = (out == np.arange(256)).sum(1)  # a value v below the threshold stays v, one above becomes 255 - v
    asked = 255 * low, 255 * high
    print(f"Solarization({low}, {high}): thresholds {thresholds.min()} to {thresholds.max()}, asked {asked}")
    assert thresholds.min() < 0.2 * 255 * low and np.median(thresholds) < 0.8 * 255 * low, thresholds
PY
