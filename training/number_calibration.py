"""Fit the confidence of numbers and their acceptance thresholds to numbers of validation digits."""

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from common.command_line import show_progress
from handler.background import estimate_background, extract_foreground
from handler.number_reader import NumberCalibration, NumberReader, Reading
from handler.number_segmentation import segment_line
from handler.preprocessing import ImageError
from training.data import LabeledImages
from training.synthetic_numbers import NARROW_GAPS, WIDE_GAPS, compose_number

NUMBERS = 1500  # with wide gaps, and as many with narrow ones
LENGTHS = (2, 8)  # digits, both included
MIN_RIGHT = 0.99  # share of the accepted numbers that are right; photographed ones, which are harder, reach 0.98
EXPONENTS = (0.01, 10.0)  # bounds of the search
MAX_CONFIDENCE = 0.9999  # so that a wrong number costs a finite loss


def fit_number_calibration(reader: NumberReader, images: LabeledImages, seed: int) -> NumberCalibration:
    """Return the exponent that maximizes the likelihood of right and wrong numbers, and thresholds for MIN_RIGHT."""
    readings = [result for gaps in (WIDE_GAPS, NARROW_GAPS) for result in _read_numbers(reader, images, gaps, seed)]
    logs = np.array([reading.log_probability for reading, _ in readings])
    is_right = np.array([right for _, right in readings])
    has_touches = np.array([reading.has_touches for reading, _ in readings])
    for kind, chosen in (("separate", ~has_touches), ("touching", has_touches)):
        print(f"{kind} digits: {is_right[chosen].mean():.2%} of {chosen.sum():,} validation numbers right")

    def compute_loss(log_exponent: float) -> float:
        confidence = np.minimum(np.exp(np.exp(log_exponent) * logs), MAX_CONFIDENCE)
        return float(-np.log(np.where(is_right, confidence, 1 - confidence)).mean())

    exponent = float(np.exp(minimize_scalar(compute_loss, bounds=np.log(EXPONENTS)).x))
    confidence = np.exp(exponent * logs)
    thresholds = [_find_threshold(confidence[chosen], is_right[chosen]) for chosen in (~has_touches, has_touches)]
    return NumberCalibration(exponent, *thresholds)


def _find_threshold(confidence: NDArray[np.float64], is_right: NDArray[np.bool_]) -> float:
    """Return the lowest threshold at which the share MIN_RIGHT of the accepted numbers is right."""
    order = np.argsort(-confidence)
    share_right = is_right[order].cumsum() / np.arange(1, len(order) + 1)
    return float(confidence[order[np.flatnonzero(share_right >= MIN_RIGHT).max(initial=0)]])


def _read_numbers(
    reader: NumberReader, images: LabeledImages, gaps: tuple[float, float], seed: int
) -> list[tuple[Reading, bool]]:
    """Compose and read numbers; return the readings that leave nothing over, and whether they are right."""
    random, readings = np.random.default_rng(seed), []
    for _ in show_progress(range(NUMBERS), "calibration"):
        rows = random.integers(len(images), size=random.integers(*LENGTHS, endpoint=True))
        number = compose_number(list(images.frames[rows]), gaps, random)
        with suppress(ImageError):
            foreground = extract_foreground(number.image, estimate_background(number.image))
            reading = reader.read_line(segment_line(foreground))
            if reading.segments and not reading.has_rest:
                readings.append((reading, reading.text == "".join(map(str, images.labels[rows]))))
    return readings
