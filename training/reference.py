"""The distribution of what is seen on a model's validation pictures, for `serving/drift.py` to compare traffic with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from prometheus_client.utils import floatToGoString

from handler import metrics
from handler.confidence import Calibration
from handler.marks import ink_and_widths
from training.data import Pictures
from training.measures import Measures


def reference(pictures: Pictures, measures: Measures, calibration: Calibration) -> dict[str, Any]:
    """Feature -> bin -> share of the pictures; bins have the names that the served metrics' labels give them."""
    probabilities = calibration.probabilities(measures.logits).numpy()
    digits = np.bincount(probabilities.argmax(1), minlength=10) / len(pictures)
    inverted = float(pictures.inverted.mean())
    ratios, widths = ink_and_widths(pictures.frames)
    return {
        "pictures": len(pictures),
        "shares": {
            "confidence": _shares(probabilities.max(1), metrics.CONFIDENCE),
            "ink": _shares(ratios, metrics.INK),
            "stroke_width": _shares(widths, metrics.WIDTH),
            "picture_size": _shares(pictures.sides, metrics.SIZE),
            "polarity": {"inverted": inverted, "as_mnist": 1 - inverted},
            "digit": {str(digit): float(share) for digit, share in enumerate(digits)},
        },
    }


def _shares(values: ArrayLike, bounds: Sequence[float]) -> dict[str, float]:
    """Of the values up to each bound, and above the last."""
    counts = np.bincount(np.searchsorted(bounds, np.asarray(values)), minlength=len(bounds) + 1)
    names = [floatToGoString(bound) for bound in (*bounds, float("inf"))]  # type: ignore[no-untyped-call]
    return dict(zip(names, (counts / counts.sum()).tolist(), strict=True))
