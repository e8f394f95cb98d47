"""Why a digit: integrated gradients (Sundararajan, Taly, Yan: Axiomatic attribution for deep networks, ICML 2017)."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from handler.calibration import Calibration
from handler.decoding import GrayImage
from handler.preprocessing import to_input

STEPS = 50  # on the way from blank paper to the picture


def compute_attribution(
    model: Callable[[torch.Tensor], torch.Tensor], calibration: Calibration, frame: GrayImage, target: int
) -> NDArray[np.float64]:
    """What each pixel of a frame uint8 [64,64] says for the target digit (above 0) or against it: [64,64], in nats.

    The sum is the target's log-probability less that of blank paper, but for the error of STEPS.
    """
    from captum.attr import IntegratedGradients  # here: nearly a second, of no use to predictions

    def log_probabilities(pictures: torch.Tensor) -> torch.Tensor:
        return (model(pictures).double() / calibration.temperature).log_softmax(1)

    channels = IntegratedGradients(log_probabilities).attribute(to_input([frame]), target=target, n_steps=STEPS)
    summed: NDArray[np.float64] = channels.sum(1)[0].numpy().astype(np.float64)
    return summed
