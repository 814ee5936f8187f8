"""The package ``imagecorruptions`` (PyPI), made to run beside present numpy, scipy and skimage.

It is the usual per-image script with ImageNet-C's constants. Its last release uses names that its
dependencies have dropped since; they are given back here, for tests and benchmarks only.
"""

import importlib
import importlib.util
import sys
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
