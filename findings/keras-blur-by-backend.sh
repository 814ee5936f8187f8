#!/usr/bin/env bash
# keras 3.15.1: `ops.image.gaussian_blur(images)` with torch and jax blurs columns and channels, not rows and
# columns: the default of data_format, documented as `image_data_format`, is not looked up. Images of ones, kernel
# (3, 3), sigma (1, 1), a value in the middle:
#                          numpy   torch, jax   by hand
#   one channel            1       0.45         1          the image is darkened by half, and blurred in one direction
#   three channels         1       0.73 1 0.73  1          and the colours change
# With data_format="channels_last" the three agree, and all take sigma and kernel_size, "along height and width", as
# width and height: sigma (2, 0.5) blurs along the rows. The first is mended on main (keras pull request 23542, August
# 2026) and not in a release; for a corruption benchmark both change what "blur" is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: \
    keras==3.15.1 jax==0.10.2 jaxlib==0.10.2 numpy==2.2.6 scipy==1.15.3
cd "$folder"
cat > blur.py <<'PY'
import keras
import numpy as np
from scipy.ndimage import correlate1d


def blurred(images, kernel_size, sigma, **options):
    return np.asarray(keras.ops.image.gaussian_blur(images, kernel_size, sigma, **options))


def by_hand(images, kernel_size, sigma):
    for axis, (size, width) in enumerate(zip(kernel_size, sigma), 1):
        weights = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / width) ** 2)
        images = correlate1d(images, weights / weights.sum(), axis, mode="constant")
    return images


backend = keras.backend.backend()
for channels in (1, 3):
    ones = np.ones((1, 15, 15, channels), "float32")
    middle = blurred(ones, (3, 3), (1.0, 1.0))[0, 7, 7]
    print(f"keras {keras.__version__}, {backend}, {channels} channel(s) of ones: {middle.round(3).tolist()}")
    assert np.allclose(by_hand(ones, (3, 3), (1.0, 1.0))[0, 7, 7], 1)
    right = [1.0] if channels == 1 else [1.0, 1.0, 1.0]
    wrong = [0.45186] if channels == 1 else [0.72593, 1.0, 0.72593]
    assert np.allclose(middle, right if backend == "numpy" else wrong, atol=1e-4), middle
images = np.random.default_rng(0).random((1, 12, 12, 3)).astype("float32")
found = blurred(images, (5, 5), (2.0, 0.5), data_format="channels_last")
asked, swapped = by_hand(images, (5, 5), (2.0, 0.5)), by_hand(images, (5, 5), (0.5, 2.0))
off, off_swapped = (float(np.abs(found - x).max()) for x in (asked, swapped))
print(f"channels_last, sigma (2, 0.5): off by {off:.3f}, by {off_swapped:.0e} if of width and height")
assert off > 0.1 and off_swapped < 1e-5
PY
for backend in numpy jax; do
    KERAS_BACKEND=$backend "$folder/venv/bin/python" -W ignore blur.py
done
