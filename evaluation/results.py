"""Predictions of an image set and their accuracy, calibration error and coverage."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.handler_runner import HandlerRunner, Predictions
from evaluation.ood_scores import compute_calibration_error
from evaluation.sets import ImageSet


@dataclass(frozen=True)
class Result:
    """An image set and its predictions; a blank image counts as a wrong prediction."""

    image_set: ImageSet
    predictions: Predictions

    @property
    def name(self) -> str:
        return self.image_set.name

    @property
    def count(self) -> int:
        return len(self.image_set.images)

    @property
    def labels(self) -> NDArray[np.int64]:
        assert self.image_set.labels is not None
        return self.image_set.labels

    @property
    def correct(self) -> NDArray[np.bool_]:
        return np.asarray(self.predictions.digits == self.labels)

    @property
    def calibration_error(self) -> float:
        return compute_calibration_error(self.predictions.probabilities, self.labels)

    @property
    def coverage(self) -> float:
        """Accepted images / all images."""
        return float(self.predictions.accepted.mean())

    @property
    def accepted_accuracy(self) -> float:
        """Accuracy of the accepted images; nan if none is."""
        accepted = self.predictions.accepted
        return float(self.correct[accepted].mean()) if accepted.any() else float("nan")


def evaluate_set(handler: HandlerRunner, image_set: ImageSet) -> Result:
    """Predict the set's images."""
    return Result(image_set, handler.predict(image_set.images, image_set.name))
