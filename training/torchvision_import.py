"""Import torchvision and torchmetrics, also with a CPU-only torch; import both from here.

PyPI's Linux wheel of torchvision is built for CUDA. Without CUDA its compiled operators do not load, and importing it,
or torchmetrics, fails because two operators are undefined. Declaring them is enough: nothing here calls them.
"""

import importlib
import sys

import torch

__all__ = ["torchmetrics", "torchvision"]

try:
    importlib.import_module("torchvision")
except RuntimeError as error:
    if "operator torchvision::" not in str(error):
        raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # keep a reference: it owns the declarations
    for operator in ("nms", "qnms"):
        _LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torchmetrics
import torchvision
