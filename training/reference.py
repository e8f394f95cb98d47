"""The drift baseline of a model: the distribution of its validation images, which traffic is compared with."""

from typing import Any

from handler.confidence import Calibration
from handler.drift import compute_baseline
from handler.marks import ink_and_widths
from training.data import Pictures
from training.measures import Measures


def reference(pictures: Pictures, measures: Measures, calibration: Calibration) -> dict[str, Any]:
    """Compute the baseline of the images and what the model gives on them, as model.json keeps it."""
    probabilities = calibration.probabilities(measures.logits)
    ratios, widths = ink_and_widths(pictures.frames)
    return compute_baseline(
        confidence=probabilities.amax(1).tolist(),
        ink=ratios,
        stroke_width=widths,
        picture_size=pictures.sides.tolist(),
        inverted=pictures.inverted.tolist(),
        digits=probabilities.argmax(1).tolist(),
    )
