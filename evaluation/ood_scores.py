"""What the report measures, by torchmetrics where that has it."""

import numpy as np
import torch
from numpy.typing import NDArray

from training.model import CLASSES
from training.torchvision_import import torchmetrics

BINS = 15  # of confidence, for the expected calibration error

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def compute_calibration_error(probabilities: Floats, labels: Labels) -> float:
    """Expected calibration error (ECE) of probabilities [N,10], 0..1; Guo et al., ICML 2017."""
    given = torch.from_numpy(probabilities), torch.from_numpy(labels)
    return float(torchmetrics.functional.classification.multiclass_calibration_error(*given, CLASSES, BINS, "l1"))


def compute_auroc(digits: Floats, outliers: Floats) -> float:
    """How well a score [N] of digits and [M] of outliers tells them apart: 0.5 by chance, 1 without a mistake."""
    scores = torch.from_numpy(np.concatenate((digits, outliers)))
    target = torch.cat((torch.ones(len(digits)), torch.zeros(len(outliers)))).long()
    return float(torchmetrics.functional.classification.binary_auroc(scores, target))
