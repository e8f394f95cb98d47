"""Metrics of scores: expected calibration error, AUROC of OOD detection, risk-coverage curve."""

import numpy as np
import torch
from numpy.typing import NDArray

from training.model import CLASSES
from training.torchvision_import import torchmetrics

BINS = 15  # confidence intervals of equal width for the expected calibration error

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def compute_calibration_error(probabilities: Floats, labels: Labels) -> float:
    """Return the expected calibration error (ECE) of probabilities [N,10], 0..1; Guo et al., ICML 2017."""
    inputs = torch.from_numpy(probabilities), torch.from_numpy(labels)
    return float(torchmetrics.functional.classification.multiclass_calibration_error(*inputs, CLASSES, BINS, "l1"))


def compute_binary_calibration_error(confidence: Floats, correct: NDArray[np.bool_]) -> float:
    """Return the expected calibration error of confidences [N] that something is correct [N]."""
    inputs = torch.from_numpy(confidence), torch.from_numpy(correct).long()
    return float(torchmetrics.functional.classification.binary_calibration_error(*inputs, BINS, "l1"))


def compute_auroc(digits: Floats, outliers: Floats) -> float:
    """Return the AUROC of scores of digits [N] against scores of outliers [M]: 0.5 is chance, 1 is perfect."""
    scores = torch.from_numpy(np.concatenate((digits, outliers)))
    target = torch.cat((torch.ones(len(digits)), torch.zeros(len(outliers)))).long()
    return float(torchmetrics.functional.classification.binary_auroc(scores, target))


def compute_risk_coverage(scores: Floats, correct: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return coverage and risk, the error rate of the accepted images, as the threshold falls past the scores [N].

    El-Yaniv, Wiener: On the foundations of noise-free selective classification, JMLR 11, 2010.
    """
    accepted = np.arange(1, len(scores) + 1)
    errors = np.cumsum(~correct[np.argsort(-scores, kind="stable")])
    return accepted / len(scores), errors / accepted
