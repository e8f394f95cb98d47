"""Tests of handler/lines.py: lines around, under and over a digit are removed, the digit's own strokes are not."""

from contextlib import suppress

import cv2
import numpy as np
import pytest

from handler.background import estimate_background, extract_foreground
from handler.decoding import GrayImage, ImageError
from handler.lines import remove_lines
from handler.preprocessing import frame_gray, frame_gray_with_warnings
from tests.images import digits
from tests.lined_images import LINED_IMAGES

EIGHT = [(20, 20), (80, 20), (80, 140), (20, 140), (20, 20), (20, 80), (80, 80)]  # x, y
SEVEN, TWO, FOUR = (
    [(0, 10), (99, 10), (50, 159)],
    [(0, 0), (99, 40), (0, 150), (99, 150)],
    [(60, 0), (0, 100), (99, 100), (70, 100), (70, 159), (70, 40)],
)


def draw_polyline(points: list[tuple[int, int]], width: int = 10) -> GrayImage:
    image = np.zeros((160, 100), np.uint8)
    cv2.polylines(image, [np.array(points, np.int32)], False, 255, width)
    return image


def has_lines(gray: GrayImage) -> bool:
    return remove_lines(extract_foreground(gray, estimate_background(gray))) is not None


@pytest.mark.parametrize(
    ("kind", "median"),
    [("boxed", 0.95), ("box touches digit", 0.93), ("ruled", 0.95), ("squared", 0.95), ("line over digit", 0.9)],
)
def test_digit_has_the_same_frame_without_its_lines(kind: str, median: float) -> None:
    correlations, warned = [], 0
    for row, gray in enumerate(digits()[0][::100]):
        [lined] = LINED_IMAGES[kind](gray[np.newaxis], np.random.default_rng(row))
        with suppress(ImageError):  # on a small image, dense lines look like noise
            framed = frame_gray_with_warnings(lined)
            warned += "lines_removed" in framed.warnings
            correlations.append(np.corrcoef(framed.frame.ravel(), frame_gray(gray).ravel())[0, 1])
    assert len(correlations) >= 48
    assert np.median(correlations) >= median
    assert warned >= 30  # of 50; faint lines are no foreground


@pytest.mark.parametrize("points", [EIGHT, SEVEN, TWO, FOUR])
@pytest.mark.parametrize("width", [3, 10, 20])
def test_straight_strokes_of_a_digit_that_fills_its_image_are_no_lines(
    points: list[tuple[int, int]], width: int
) -> None:
    stroke = draw_polyline(points, width)
    assert not has_lines(stroke)
    assert not has_lines(255 - stroke)


def test_mnist_digits_have_no_lines() -> None:
    assert not any(has_lines(gray) for gray in digits()[0][::10])


@pytest.mark.parametrize("tilt", [-4, 0, 4])
@pytest.mark.parametrize("width", [1, 3, 6])
def test_stroke_that_crosses_a_line_is_rebuilt(tilt: int, width: int) -> None:
    stroke = draw_polyline([(35, 30), (60, 130)], 14)
    lined = stroke.copy()
    for y in (20, 80, 110):
        cv2.line(lined, (0, y - tilt), (99, y + tilt), 255, width)
    foreground = extract_foreground(lined, estimate_background(lined))
    cleared = remove_lines(foreground)
    assert cleared is not None
    assert cv2.connectedComponents(np.where(cleared.intensity > 128, 255, 0).astype(np.uint8))[0] == 2
    differs = (cleared.intensity > 128) != (stroke > 128)
    assert differs.sum() <= 0.1 * (stroke > 128).sum()


def test_nothing_is_removed_if_nothing_else_is_drawn() -> None:
    box = np.zeros((160, 100), np.uint8)
    cv2.rectangle(box, (10, 10), (90, 150), 255, 4)
    assert not has_lines(box)
