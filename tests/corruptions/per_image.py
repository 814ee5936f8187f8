"""Plain reference of the corruptions: one image at a time, numpy, scipy and Pillow.

Written from the published steps, without sharing code with the library, the way the usual scripts
work. Images are (H, W, C) float64 in [0, 1]; results are not clipped. Spatter is left out: its
steps need a vision library.
"""

import io
import math

import numpy as np
from PIL import Image
from scipy import ndimage

GREY = np.array([0.299, 0.587, 0.114])
# Of the size of the published photographs: only the cost of scaling and cropping matters here.
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (495, 660, 3), np.uint8))


def blurred(x, sigma, mode="nearest", truncate=4.0):
    return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode=mode, truncate=truncate)


def gaussian_noise(x, c, rng):
    return x + rng.normal(size=x.shape, scale=c)


def shot_noise(x, c, rng):
    return rng.poisson(x * c) / c


def impulse_noise(x, c, rng):
    flip = rng.random(x.shape) < c
    salt = rng.random(x.shape) < 0.5
    return np.where(flip, salt.astype(float), x)


def speckle_noise(x, c, rng):
    return x + x * rng.normal(size=x.shape, scale=c)


def gaussian_blur(x, c, rng):
    return blurred(x, c)


def glass_blur(x, c, rng):
    sigma, delta, sweeps = c
    x = np.uint8(blurred(x, sigma) * 255)
    for _ in range(sweeps):
        for h in range(x.shape[0] - delta, delta, -1):
            for w in range(x.shape[1] - delta, delta, -1):
                dx, dy = rng.integers(-delta, delta, size=2)
                x[h, w] = x[h + dy, w + dx]
    return blurred(x / 255.0, sigma)


def defocus_blur(x, c, rng):
    radius, alias = c
    reach = 8 if radius <= 8 else radius
    yy, xx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = (yy**2 + xx**2 <= radius**2).astype(float)
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    soft = np.exp(-(taps**2) / (2 * alias**2))
    soft /= soft.sum()
    kernel = ndimage.correlate(kernel / kernel.sum(), np.outer(soft, soft), mode="mirror")
    return np.stack([ndimage.correlate(p, kernel, mode="mirror") for p in x.transpose(2, 0, 1)], 2)


def motion_with_angle(x, radius, sigma, angle):
    h, w = x.shape[:2]
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2.0 * sigma**2))
    out = np.zeros_like(x)
    for i, weight in enumerate(weights / weights.sum()):
        dy = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        dx = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        rows = np.clip(np.arange(h) + dy, 0, h - 1)
        columns = np.clip(np.arange(w) + dx, 0, w - 1)
        out += weight * x[rows][:, columns]
    return out


def motion_blur(x, c, rng):
    return motion_with_angle(x, *c, rng.uniform(-45, 45))


def centre_zoom(x, factor):
    crops = []
    for size in x.shape[:2]:
        crop = math.ceil(size / factor)
        crops.append(slice((size - crop) // 2, (size - crop) // 2 + crop))
    big = ndimage.zoom(x[crops[0], crops[1]], (factor, factor, 1), order=1)
    top, left = (big.shape[0] - x.shape[0]) // 2, (big.shape[1] - x.shape[1]) // 2
    return big[top : top + x.shape[0], left : left + x.shape[1]]


def zoom_blur(x, c, rng):
    return (x + sum(centre_zoom(x, factor) for factor in c)) / (len(c) + 1)


def snow(x, c, rng):
    mean, std, factor, threshold, radius, sigma, blend = c
    layer = centre_zoom(rng.normal(mean, std, x.shape[:2])[..., None], factor)
    layer = np.floor(np.clip(np.where(layer < threshold, 0, layer), 0, 1) * 255) / 255
    layer = motion_with_angle(layer, radius, sigma, rng.uniform(-135, -45))
    layer = np.round(layer * 255) / 255
    luma = (x @ GREY)[..., None] if x.shape[2] == 3 else x
    x = blend * x + (1 - blend) * np.maximum(x, luma * 1.5 + 0.5)
    return x + layer + np.rot90(layer, 2)


def frost(x, c, rng):
    photo = np.asarray(PHOTO.resize((132, 99), Image.Resampling.BILINEAR))
    i, j = rng.integers(0, 99 - x.shape[0]), rng.integers(0, 132 - x.shape[1])
    return c[0] * x + c[1] * photo[i : i + x.shape[0], j : j + x.shape[1]] / 255


def plasma(side, decay, rng):
    """Diamond-square, written height by height from its definition on a torus."""
    heights, step, wibble = np.zeros((side, side)), side, 100.0
    while step >= 2:
        half = step // 2
        for offsets, centres in (
            (((-half, -half), (-half, half), (half, -half), (half, half)), ((half, half),)),
            (((-half, 0), (half, 0), (0, -half), (0, half)), ((0, half), (half, 0))),
        ):
            for first_row, first_column in centres:
                rows, columns = np.mgrid[first_row:side:step, first_column:side:step]
                near = [heights[(rows + i) % side, (columns + j) % side] for i, j in offsets]
                noise = wibble * rng.uniform(-wibble, wibble, rows.shape)
                heights[rows, columns] = sum(near) / 4 + noise
        step, wibble = half, wibble / decay
    heights -= heights.min()
    return heights / heights.max()


def fog(x, c, rng):
    side = 1 << (max(x.shape[:2]) - 1).bit_length()
    haze = plasma(side, c[1], rng)[: x.shape[0], : x.shape[1], None]
    return (x + c[0] * haze) * x.max() / (x.max() + c[0])


def _hsv_planes(x):
    value, low = x.max(2), x.min(2)
    return value, np.where(value > 0, (value - low) / np.where(value > 0, value, 1), 0)


def _hue(x):
    value, spread = x.max(2), np.ptp(x, 2)
    safe = np.where(spread > 0, spread, 1)
    r, g, b = x.transpose(2, 0, 1)
    hue = np.where(value == r, (g - b) / safe, 4 + (r - g) / safe)
    hue = np.where((value == g) & (value != r), 2 + (b - r) / safe, hue)
    return np.where(spread > 0, hue / 6 % 1, 0)


def _rgb(hue, saturation, value):
    out = []
    for offset in (5, 3, 1):  # the closed form of the hexagon
        k = (offset + hue * 6) % 6
        out.append(value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.stack(out, 2)


def brightness(x, c, rng):
    if x.shape[2] == 1:
        return np.clip(x + c, 0, 1)
    value, saturation = _hsv_planes(x)
    return _rgb(_hue(x), saturation, np.clip(value + c, 0, 1))


def saturate(x, c, rng):
    if x.shape[2] == 1:
        return x
    value, saturation = _hsv_planes(x)
    return _rgb(_hue(x), np.clip(saturation * c[0] + c[1], 0, 1), value)


def contrast(x, c, rng):
    mean = x.mean((0, 1), keepdims=True)
    return (x - mean) * c + mean


def _pillow(x):
    levels = np.uint8(np.round(x * 255))
    return Image.fromarray(levels if x.shape[2] == 3 else levels[..., 0])


def _array(image):
    x = np.asarray(image) / 255.0
    return x if x.ndim == 3 else x[..., None]


def jpeg_compression(x, c, rng):
    file = io.BytesIO()
    _pillow(x).save(file, "JPEG", quality=c)
    return _array(Image.open(file))


def pixelate(x, c, rng):
    h, w = x.shape[:2]
    small = _pillow(x).resize((max(int(w * c), 1), max(int(h * c), 1)), Image.Resampling.BOX)
    return _array(small.resize((w, h), Image.Resampling.BOX))


def warped(x, moves, field):
    """Elastic transform for given moves (3, 2) of the points and displacements (2, H, W)."""
    h, w = x.shape[:2]
    s = max(min(h, w) // 3, 1)
    points = np.array([[s, s], [s, -s], [-s, -s]]) + np.array([w // 2, h // 2])
    moved = np.c_[points + moves, np.ones(3)]
    back = np.linalg.solve(moved, points)  # rows: (x, y, 1) of the result -> (x, y) of the source
    yy, xx = np.mgrid[:h, :w]
    source = np.stack([xx, yy, np.ones_like(xx)], -1) @ back

    def sampled(image, rows, columns, mode):
        return np.stack(
            [ndimage.map_coordinates(p, (rows, columns), order=1, mode=mode) for p in image], 2
        )

    x = sampled(x.transpose(2, 0, 1), source[..., 1], source[..., 0], "mirror")
    return sampled(x.transpose(2, 0, 1), yy + field[0], xx + field[1], "reflect")


def elastic_transform(x, c, rng):
    alpha, sigma, reach = c
    noise = rng.uniform(-1, 1, (2, *x.shape[:2]))
    field = ndimage.gaussian_filter(noise, (0, sigma, sigma), mode="reflect", truncate=3) * alpha
    return warped(x, rng.uniform(-reach, reach, (3, 2)), field)
