"""Apply a calibration: probabilities from logits, and the score by which a prediction is accepted or rejected."""

import json
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handler.protocol import SEVERAL_MARKS

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """Temperature and threshold, fitted on validation images; the defaults change nothing and accept everything."""

    temperature: float = 1.0
    threshold: float = -math.inf  # of the score; an image below it is rejected

    def compute_probabilities(self, logits: ArrayLike) -> Floats:
        """Logits [N,10] -> probabilities [N,10] (temperature scaling: Guo et al., ICML 2017)."""
        return np.exp(log_softmax(np.asarray(logits, np.float64) / self.temperature))

    def compute_scores(self, logits: ArrayLike) -> Floats:
        """Logits [N,10] -> [N], at most 0, higher for digits: negative entropy of the probabilities."""
        return compute_negative_entropy(self.compute_probabilities(logits))

    def accept(self, logits: ArrayLike, warnings: Sequence[Container[str]] = ()) -> NDArray[np.bool_]:
        """Logits [N,10] -> bool [N]: whether the score reaches the threshold and no warning names several marks."""
        return self.accept_probabilities(self.compute_probabilities(logits), warnings)

    def accept_probabilities(self, probabilities: Floats, warnings: Sequence[Container[str]] = ()) -> NDArray[np.bool_]:
        """Decide from probabilities [N,10] as `accept` does from logits."""
        is_single = np.array([SEVERAL_MARKS not in names for names in warnings] or True)
        is_accepted: NDArray[np.bool_] = (compute_negative_entropy(probabilities) >= self.threshold) & is_single
        return is_accepted


def log_softmax(logits: NDArray[Any]) -> Floats:
    """Logits [N,classes] -> logarithms of probabilities [N,classes]."""
    shifted = logits - logits.max(1, keepdims=True)
    log_probabilities: Floats = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return log_probabilities


def compute_negative_entropy(probabilities: Floats) -> Floats:
    """Probabilities [N,10] -> negative entropy [N], in nats."""
    tiny = np.finfo(np.float64).tiny
    entropy: Floats = (probabilities * np.log(np.maximum(probabilities, tiny))).sum(1)
    return entropy


def read_calibration(record_path: Path) -> Calibration:
    """Read the calibration in a model.json; the neutral one if it has none."""
    return Calibration(**json.loads(record_path.read_text()).get("calibration", {}))
