"""Temperature and threshold, fitted on validation pictures that the network was not trained on."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from scipy.optimize import minimize_scalar
from torch import Tensor

from handler.calibration import Calibration
from training.model_metrics import Evaluation

REJECTED_SHARE = 0.013  # share of the validation digits that the threshold refuses
TEMPERATURES = (0.05, 20.0)


def calibrate(measures: Evaluation) -> Calibration:
    """Of validation pictures: the likeliest temperature, and the threshold that refuses REFUSED of them."""
    temperature = _temperature(measures.logits, measures.labels)
    return Calibration(
        temperature,
        float(np.quantile(Calibration(temperature).compute_scores(measures.logits).numpy(), REJECTED_SHARE)),
    )


def _temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of least cross-entropy (Guo, Pleiss, Sun, Weinberger: On calibration, ICML 2017)."""

    def loss(logarithm: float) -> float:
        return float(F.cross_entropy(logits.double() / np.exp(logarithm), labels))

    with torch.inference_mode():
        found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
