"""What the logits say of the digit and of its being one: calibrated probabilities, and the score that accepts."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SCORE_TEMPERATURE_SCALE = 1.5  # times the temperature in the score: what is no digit shows in the lesser logits as well


@dataclass(frozen=True)
class Calibration:
    """Fitted on validation pictures, kept in model.json; without it probabilities are as trained, all is accepted."""

    temperature: float = 1.0
    threshold: float = -math.inf  # of the score; a picture below it is not accepted as a digit

    def compute_probabilities(self, logits: Tensor) -> Tensor:
        """Logits [N,10] -> probabilities float64 [N,10] (temperature scaling: Guo et al., ICML 2017)."""
        return (logits.double() / self.temperature).softmax(1)

    def compute_scores(self, logits: Tensor) -> Tensor:
        """Logits [N,10] -> float64 [N], at most 0, higher for digits: negative entropy of softer probabilities."""
        return compute_negative_entropy(logits, SCORE_TEMPERATURE_SCALE * self.temperature)

    def accept(self, logits: Tensor) -> Tensor:
        """Logits [N,10] -> bool [N]: whether the score is enough."""
        return self.compute_scores(logits) >= self.threshold


def compute_negative_entropy(logits: Tensor, temperature: float) -> Tensor:
    """Of the probabilities of logits [N,10] at the temperature, in nats: float64 [N]."""
    probabilities = (logits.double() / temperature).softmax(1)
    return torch.xlogy(probabilities, probabilities).sum(1)


def read_calibration(record: Path) -> Calibration:
    """The calibration in a model.json, or the neutral one where that has none."""
    return Calibration(**json.loads(record.read_text()).get("calibration", {}))
