"""Apply a calibration: probabilities from logits, and the score by which a prediction is accepted or rejected."""

import json
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from handler.protocol import SEVERAL_MARKS


@dataclass(frozen=True)
class Calibration:
    """Temperature and threshold, fitted on validation images; the defaults change nothing and accept everything."""

    temperature: float = 1.0
    threshold: float = -math.inf  # of the score; an image below it is rejected

    def compute_probabilities(self, logits: Tensor) -> Tensor:
        """Logits [N,10] -> probabilities float64 [N,10] (temperature scaling: Guo et al., ICML 2017)."""
        return (logits.double() / self.temperature).softmax(1)

    def compute_scores(self, logits: Tensor) -> Tensor:
        """Logits [N,10] -> float64 [N], at most 0, higher for digits: negative entropy of the probabilities."""
        return compute_negative_entropy(self.compute_probabilities(logits))

    def accept(self, logits: Tensor, warnings: Sequence[Container[str]] = ()) -> Tensor:
        """Logits [N,10] -> bool [N]: whether the score reaches the threshold and no warning names several marks."""
        reached = self.compute_scores(logits) >= self.threshold
        return reached & torch.tensor([SEVERAL_MARKS not in names for names in warnings] or True)


def compute_negative_entropy(probabilities: Tensor) -> Tensor:
    """Probabilities [N,10] -> negative entropy [N], in nats."""
    return torch.xlogy(probabilities, probabilities).sum(1)


def read_calibration(record_path: Path) -> Calibration:
    """Read the calibration in a model.json; the neutral one if it has none."""
    return Calibration(**json.loads(record_path.read_text()).get("calibration", {}))
