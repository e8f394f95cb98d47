"""The drift baseline of a model: the distribution of its validation images, which traffic is compared with."""

from typing import Any

from handler.calibration import Calibration
from handler.drift import compute_baseline
from handler.geometry import measure_foreground
from training.data import LabeledImages
from training.model_metrics import Evaluation


def compute_drift_baseline(pictures: LabeledImages, measures: Evaluation, calibration: Calibration) -> dict[str, Any]:
    """Compute the baseline of the images and what the model gives on them, as model.json keeps it."""
    probabilities = calibration.compute_probabilities(measures.logits)
    ratios, widths = measure_foreground(pictures.frames)
    return compute_baseline(
        confidence=probabilities.amax(1).tolist(),
        foreground_ratio=ratios,
        stroke_width=widths,
        image_size=pictures.sides.tolist(),
        inverted=pictures.inverted.tolist(),
        digits=probabilities.argmax(1).tolist(),
    )
