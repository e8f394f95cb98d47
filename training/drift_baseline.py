"""The drift baseline of a model: the distribution of its validation images, with which traffic is compared."""

from typing import Any

from handler.calibration import Calibration
from handler.drift import compute_baseline
from handler.geometry import measure_foreground
from training.data import LabeledImages
from training.model_metrics import Evaluation


def compute_drift_baseline(images: LabeledImages, evaluation: Evaluation, calibration: Calibration) -> dict[str, Any]:
    """Return the baseline of images and of the model's predictions for them, as model.json stores it."""
    probabilities = calibration.compute_probabilities(evaluation.logits)
    ratios, widths = measure_foreground(images.frames)
    return compute_baseline(
        confidence=probabilities.max(1).tolist(),
        foreground_ratio=ratios,
        stroke_width=widths,
        image_size=images.sizes.tolist(),
        inverted=images.inverted.tolist(),
        digits=probabilities.argmax(1).tolist(),
    )
