"""Evaluation of the released model on pictures unlike its training's: changed digits, photos, outliers."""

import training.torchvision_import  # noqa: F401 - makes torchvision importable beside a CPU-only torch
