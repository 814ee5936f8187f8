"""For tests and doctests alike: torchvision's wheels beside a CPU build of torch.

Their operators do not load there, and importing torchvision (as torchmetrics, timm and Lightning
do where it is installed) fails because it describes them. Their schemas alone make it import.
"""

from __future__ import annotations

import importlib.util
import sys

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # the schemas live as long as this object

if importlib.util.find_spec("torchvision") is not None:
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
