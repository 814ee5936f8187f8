"""Out-of-distribution scores of two full-size networks: ResNet-18 on CIFAR-10, ReLU and QAct.

    python benchmarks/scores.py --features DIR --relu RELU.npz --qact QACT.npz \\
        --train CIFAR10-TRAIN.npz --test CIFAR10-TEST.npz --set cifar100=FILE.npz --set mnist=...
    python benchmarks/scores.py --features DIR --table

Files hold ``images`` (N, H, W, C) uint8 and ``labels`` (N,). Each set passes through each network
once; logits and features are kept in ``--features``, and everything else is computed from these.
A stopped run goes on where it stood. Weights as in ``fullsize_streams.py``.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fullsize_streams import network, normalised
from qact.shift import corrupt

BATCH = 100
CORRUPTIONS = ("gaussian_noise", "defocus_blur", "fog", "jpeg_compression")
NEAR = ("cifar100", "tinyimagenet")
EACH = 150  # images of each corruption and severity


def images_of(path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) in [0, 1], grey ones as RGB and smaller ones resized; labels (N,)."""
    with np.load(path, allow_pickle=False) as file:
        images, labels = (torch.from_numpy(file[name]) for name in ("images", "labels"))
    x = images.permute(0, 3, 1, 2).float() / 255
    if x.shape[-1] != 32:  # as OpenOOD does
        x = interpolate(x, (32, 32), mode="bilinear", align_corners=False, antialias=True)
    return x.expand(-1, 3, -1, -1), labels


def textures(count: int, seed: int = 0) -> Tensor:
    """Noise with a spectrum of ``1/f^b``, ``b`` uniform in [0, 2.5], channels partly shared."""
    draw = torch.Generator().manual_seed(seed)
    frequency = torch.fft.fftfreq(32)[:, None].hypot(torch.fft.rfftfreq(32)).clamp(min=1 / 32)
    exponent = 2.5 * torch.rand(count, 1, 1, 1, generator=draw)
    shared = torch.rand(count, 1, 1, 1, generator=draw)
    white = torch.randn(count, 3, 32, 32, generator=draw)
    white = shared * white[:, :1] + (1 - shared) * white
    noise = torch.fft.irfft2(torch.fft.rfft2(white) / frequency**exponent, s=(32, 32))
    noise = (noise - noise.mean((1, 2, 3), keepdim=True)) / noise.std((1, 2, 3), keepdim=True)
    level = torch.rand(count, 3, 1, 1, generator=draw)
    return (level + 0.25 * noise).clamp(0, 1)


def sets(options: argparse.Namespace) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, images and labels of every set, what matters most first."""
    test, labels = images_of(options.test)
    clean = options.clean
    yield "cifar10", test[:clean], labels[:clean]
    pairs = [pair.split("=", 1) for pair in options.set]
    for near in (True, False):
        for name, path in (pair for pair in pairs if (pair[0] in NEAR) == near):
            x, y = images_of(Path(path))
            count = options.images if near else options.images // 2
            yield name, x[:count], y[:count]
        if near:
            x, y = images_of(options.train)
            for begin in range(0, min(len(x), options.fitted), 2500):
                yield f"train-{begin}", x[begin : begin + 2500], y[begin : begin + 2500]
    yield "textures", textures(options.images // 2), torch.zeros(options.images // 2).long()
    for name in CORRUPTIONS:
        for severity in range(1, 6):
            part = slice(clean, clean + EACH)
            x = corrupt(test[part], name, severity, seed=0)
            yield f"{name}-{severity}", x, labels[part]


@torch.no_grad()
def passed(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Logits, features and seconds of processor time of one pass."""
    begin, parts = time.process_time(), []
    for batch in x.split(BATCH):
        features = model.embed(normalised(batch))
        parts.append((model.head(features), features))
    logits, features = map(torch.cat, zip(*parts, strict=True))
    return logits, features, time.process_time() - begin


def make_features(options: argparse.Namespace) -> None:
    """Pass every set through both networks, and keep what comes out."""
    models = {kind: network(kind, getattr(options, kind)) for kind in ("relu", "qact")}
    options.features.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    for name, x, y in sets(options):
        for kind, model in models.items():
            file = options.features / f"{kind}-{name}.npz"
            if file.exists() or time.monotonic() > end:
                continue
            logits, features, seconds = passed(model, x)
            part = file.with_suffix(".part.npz")
            arrays = {"logits": logits, "features": features, "labels": y}
            np.savez(part, **{key: value.numpy() for key, value in arrays.items()})
            part.replace(file)
            hit = (logits.argmax(1) == y).float().mean()
            print(
                f"{kind} {name}: {len(x)} images, {seconds:.0f} s, accuracy {hit:.3f}", flush=True
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--features", type=Path, required=True, help="folder of what is kept")
    parser.add_argument("--relu", type=Path, help="weights")
    parser.add_argument("--qact", type=Path, help="weights")
    parser.add_argument("--train", type=Path, help="images to fit on")
    parser.add_argument("--test", type=Path, help="in-distribution images")
    parser.add_argument("--set", action="append", default=[], help="NAME=FILE, outliers")
    parser.add_argument("--clean", type=int, default=2500, help="clean in-distribution images")
    parser.add_argument("--images", type=int, default=2000, help="of a near set; half for far")
    parser.add_argument("--fitted", type=int, default=5000, help="training images of the fit")
    parser.add_argument("--minutes", type=float, default=1e6, help="then stop, to go on later")
    options = parser.parse_args()
    torch.set_num_threads(1)
    make_features(options)


if __name__ == "__main__":
    main()
