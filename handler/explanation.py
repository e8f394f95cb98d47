"""Compute integrated gradients (Sundararajan, Taly, Yan: Axiomatic attribution for deep networks, ICML 2017)."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from handler.calibration import Calibration
from handler.decoding import GrayImage
from handler.preprocessing import to_input

INTEGRATION_STEPS = 50  # from an empty frame to the image's


def compute_attribution(
    model: Callable[[torch.Tensor], torch.Tensor], calibration: Calibration, frame: GrayImage, target: int
) -> NDArray[np.float64]:
    """Return what the pixels of a frame uint8 [64,64] add to the target's log-probability: [64,64], in nats."""
    from captum.attr import IntegratedGradients  # here: its import takes nearly a second, which predictions do not need

    def compute_log_probabilities(images: torch.Tensor) -> torch.Tensor:
        return (model(images).double() / calibration.temperature).log_softmax(1)

    gradients = IntegratedGradients(compute_log_probabilities)
    channels = gradients.attribute(to_input([frame]), target=target, n_steps=INTEGRATION_STEPS)  # [1,3,64,64]
    attribution: NDArray[np.float64] = channels.sum(1)[0].numpy().astype(np.float64)
    return attribution
