"""The package ``imagecorruptions`` (PyPI), made to run beside present numpy, scipy and skimage.

It is the usual per-image script with ImageNet-C's constants. Its last release uses names that its
dependencies have dropped since; they are given back here, for tests and benchmarks only.
"""

import ast
import importlib
import importlib.util
import inspect
import sys
import textwrap
import types
from pathlib import Path

import numpy as np


def load():
    """Return the module of the corruption functions, or raise ImportError."""
    import scipy.ndimage
    import skimage.filters

    found = importlib.util.find_spec("imagecorruptions")
    if found is None:
        raise ImportError("imagecorruptions is not installed")
    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda _, name: str(Path(found.origin).parent / name)
    names = {"pkg_resources": resources, "scipy.ndimage.interpolation": scipy.ndimage}
    kept = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    try:
        module = importlib.import_module("imagecorruptions.corruptions")
    finally:
        for name, old in kept.items():
            sys.modules.pop(name)
            if old is not None:
                sys.modules[name] = old
    numpy = types.SimpleNamespace(**{name: getattr(np, name) for name in dir(np)})
    numpy.float_ = np.float64
    module.np = numpy
    module.gaussian = lambda image, sigma, multichannel=False, **options: skimage.filters.gaussian(
        image, sigma, channel_axis=-1 if multichannel else None, **options
    )
    return module


def with_constant(module, name, constant):
    """Return the module's function ``name`` with ``constant`` in the place of its own ``c``."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(module, name))))
    taken = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "c"
    ]
    assert len(taken) == 1, f"{name} assigns its constants {len(taken)} times"
    taken[0].value = ast.Name("_constant", ast.Load())
    names = {**vars(module), "_constant": constant}
    exec(compile(ast.fix_missing_locations(tree), name, "exec"), names)
    return names[name]


def frost_pictures():
    """Return the photographs of frost that CIFAR-10-C blends, RGB, a fifth of their size.

    The published script draws among the first five of six, and shrinks by OpenCV's bilinear rule,
    which reads two pixels of ten along an axis: the texture keeps its fine detail.
    """
    import cv2

    folder = Path(importlib.util.find_spec("imagecorruptions").origin).parent / "frost"
    files = [*(f"frost{k}.png" for k in (1, 2, 3)), *(f"frost{k}.jpg" for k in (4, 5))]
    shrunk = (cv2.resize(cv2.imread(str(folder / f)), (0, 0), fx=0.2, fy=0.2) for f in files)
    return [picture[..., ::-1] for picture in shrunk]


def frost(image, constant, pictures):
    """Blend a random crop of a random picture into ``image`` (H, W, 3), as CIFAR-10-C does."""
    keep, add = constant
    picture = pictures[np.random.randint(len(pictures))]
    i, j = (
        np.random.randint(0, p - s) for p, s in zip(picture.shape, image.shape[:2], strict=False)
    )
    crop = picture[i : i + image.shape[0], j : j + image.shape[1]]
    return np.clip(keep * image + add * crop, 0, 255)
