"""Imports torchvision and torchmetrics, also with a CPU-only torch; import both from here.

PyPI's Linux wheel of torchvision is built for CUDA. Without CUDA its compiled operators do not load, and importing it,
or torchmetrics, fails because two operators are undefined. Declaring them is enough: nothing here calls them.
"""

import importlib
import sys
from typing import Final

import torch

__all__ = ["torchmetrics", "torchvision"]

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _import_torchvision() -> torch.library.Library | None:
    """Import torchvision; return the library of declared operators, or None if none were missing."""
    try:
        importlib.import_module("torchvision")
        return None
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _OPERATORS:
        library.define(schema)
    importlib.import_module("torchvision")
    return library


_LIBRARY: Final = _import_torchvision()  # keep a reference: it owns the declarations

import torchmetrics  # noqa: E402 - imports torchvision
import torchvision  # noqa: E402
