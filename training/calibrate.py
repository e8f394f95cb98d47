"""Fit temperature and acceptance threshold to validation images."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from scipy.optimize import minimize_scalar
from torch import Tensor

from handler.calibration import Calibration
from training.model_metrics import Evaluation

REJECTED_RATIO = 0.012  # share of the validation images that the threshold rejects
TEMPERATURES = (0.05, 20.0)  # bounds of the search


def fit_calibration(evaluation: Evaluation) -> Calibration:
    """Fit the temperature, then the threshold that rejects REJECTED_RATIO of the validation images."""
    temperature = _fit_temperature(evaluation.logits, evaluation.labels)
    scores = Calibration(temperature).compute_scores(evaluation.logits)
    return Calibration(temperature, float(np.quantile(scores, REJECTED_RATIO)))


def _fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that minimizes cross-entropy (Guo, Pleiss, Sun, Weinberger: On calibration, ICML 2017)."""

    def compute_loss(log_temperature: float) -> float:
        return float(F.cross_entropy(logits.double() / np.exp(log_temperature), labels))

    with torch.inference_mode():
        result = minimize_scalar(compute_loss, bounds=np.log(TEMPERATURES), options={"xatol": 1e-6})
    return float(np.exp(result.x))
