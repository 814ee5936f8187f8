"""Import torchvision beside a torch that its compiled operators were not built for.

torchvision's wheels are built for the CUDA build of torch. Beside the CPU build their operators do
not load, and `import torchvision` fails because it describes some of them. Their schemas alone make
the import work; the operators themselves (boxes, regions) stay missing, and no classifier calls
them. For tests and benchmarks; where torchvision imports by itself nothing is done.
"""

from __future__ import annotations

import sys

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# The schemas live as long as the library object does.
_library: torch.library.Library | None = None


def import_torchvision() -> None:
    """Make `import torchvision` work, and with it `import timm`."""
    global _library
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in SCHEMAS:
            _library.define(schema)
        import torchvision  # noqa: F401
