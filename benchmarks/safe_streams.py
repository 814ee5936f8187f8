"""The streams of `benchmarks/safe.py`: images of five levels, and clusters of points."""

from collections.abc import Callable

import torch
from torch import Tensor

import adaptation
from qact.bench.data import Inputs, load_inputs
from qact.shift import corrupt, streams

Batches = list[tuple[Tensor, Tensor, str]]
HELD_OUT = ("speckle_noise", "gaussian_blur", "spatter")
CORRUPTIONS = {
    "mild": HELD_OUT,
    "hard": HELD_OUT,
    "collapse": ("impulse_noise", "frost", "fog", "brightness"),
    "exposure": ("motion_blur", "zoom_blur", "pixelate"),
    "test": ("gaussian_noise", "defocus_blur", "snow", "contrast"),
}
COUNT, FEW = 256, 64  # images of a corruption; in streams of batches below 16
STUDIES = {name: recipe for name, (recipe, _) in adaptation.STUDIES.items()}
STRENGTH = {"digits": 5, "cifar10": 2}  # of the blur and the spatter below the hard streams
CONTRAST = {"digits": 0.2, "cifar10": 0.4}  # of the unevenly exposed images
SHIFTS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "0.8x + 0.3": lambda x: 0.8 * x + 0.3,
    "1.5x + 1": lambda x: 1.5 * x + 1.0,
}


def validation(inputs: Inputs, study: str, level: str) -> tuple[Tensor, Tensor]:
    """Validation images in [0, 1], the hard ones corrupted once already, and labels."""
    images = (inputs.val[0] * inputs.std + inputs.mean).clamp(0, 1)[:COUNT]
    if level == "hard":
        for seed, kind in ((7, "gaussian_blur"), (8, "spatter")):
            images = corrupt(images, kind, STRENGTH[study], seed=seed)
    if level == "exposure":
        images = uneven(images, CONTRAST[study])
    return images, inputs.val[1][:COUNT]


def uneven(images: Tensor, contrast: float) -> Tensor:
    """Images of little contrast on a level of grey that changes from one to the next."""
    draw = torch.Generator().manual_seed(9)
    grey = 0.4 + 0.2 * torch.rand(len(images), 1, 1, 1, generator=draw)
    return contrast * images + (1 - contrast) * grey


def image_stream(study: str, level: str, name: str, batch: int) -> tuple[Batches, bool]:
    """The batches of a stream, and whether every condition is a start of its own."""
    inputs = load_inputs(STUDIES[study].data)
    if level == "test":
        images, labels = inputs.test_images[:COUNT], inputs.test_labels[:COUNT]
    else:
        images, labels = validation(inputs, study, level)
    count = FEW if batch < 16 else COUNT
    stream = streams.stream(
        name,
        images[:count],
        labels[:count],
        batch=batch,
        corruptions=CORRUPTIONS[level],
        transform=inputs.normalised,
    )
    return [tuple(b) for b in stream], stream.fresh


def clusters(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ten normal clusters in 16 dimensions, and which one each point is of."""
    centres = 0.9 * torch.randn(10, 16, generator=torch.Generator().manual_seed(5))
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=draw)
    return centres[labels] + torch.randn(count, 16, generator=draw), labels


def point_stream(level: str, order: str, batch: int) -> tuple[Batches, bool]:
    """Points of all clusters, shuffled or sorted by label."""
    x, y = clusters(960, 2)
    at = torch.arange(960) if order == "iid" else y.argsort(stable=True)
    at = at[::4] if batch < 16 else at
    x, y = SHIFTS[level](x[at]), y[at]
    return [(a, b, level) for a, b in zip(x.split(batch), y.split(batch), strict=True)], False
