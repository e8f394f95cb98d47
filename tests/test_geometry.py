"""Tests of handler/geometry.py: the digit is cropped, deslanted and placed in MNIST's geometry."""

import numpy as np
import pytest

from handler.decoding import GrayImage
from handler.geometry import DIGIT_SIZE, crop_components, deslant, place_in_frame
from handler.segmentation import find_components
from tests.images import draw_boxes, make_foreground


@pytest.mark.parametrize(("height", "width"), [(40, 10), (10, 40), (1, 1), (3, 90), (46, 46)])
def test_longer_side_is_scaled_and_the_aspect_ratio_kept(height: int, width: int) -> None:
    foreground = make_foreground(draw_boxes((5, 5 + height, 5, 5 + width)))
    digit = crop_components(foreground, find_components(foreground))
    assert max(digit.shape) == DIGIT_SIZE
    rows, columns = (np.count_nonzero(digit.max(axis) > 127) for axis in (1, 0))  # without edges that fade
    assert rows / columns == pytest.approx(height / width, rel=0.6 if min(height, width) < 5 else 0.05)
    assert digit.max() == 255


@pytest.mark.parametrize("width", [1, 3, 6, 20])
def test_thin_stroke_in_a_large_image_does_not_fade(width: int) -> None:
    foreground = make_foreground(draw_boxes((50, 450, 200, 200 + width), (50, 50 + width, 200, 400), side=500))
    digit = crop_components(foreground, find_components(foreground))
    assert 1 <= (digit[30] > 128).sum() <= 4
    assert digit[30].max() >= 200


@pytest.mark.parametrize("sides", [(12, 20), (20, 28)])
def test_steps_of_a_black_and_white_digit_are_smoothed_and_its_strokes_keep_their_width(sides: tuple[int, int]) -> None:
    height = sides[0]
    stairs = np.zeros((sides[1],) * 2, np.uint8)
    for row in range(height):
        stairs[row + 4, 4 + row // 2 : 8 + row // 2] = 255
    binary, gray = (make_foreground(image) for image in (stairs, np.where(stairs, stairs, 60).astype(np.uint8)))
    smooth, stepped = (crop_components(image, find_components(image)) for image in (binary, gray))
    edges = [np.abs(np.diff(digit.astype(float), axis=1)).max() for digit in (smooth, stepped)]
    assert edges[0] < 255 * 0.6
    assert np.mean(smooth > 128) == pytest.approx(4 / (4 + height / 2 - 0.5), abs=0.12)


def draw_slanted_bar(slant: float, height: int = 46, width: int = 9) -> GrayImage:
    """Draw a bar whose rows are shifted left by `slant` pixels per row."""
    gray = np.zeros((height, width + round(abs(slant) * height)), np.uint8)
    for row in range(height):
        left = round(slant * (height / 2 - row) + (gray.shape[1] - width) / 2)
        gray[row, max(left, 0) : left + width] = 255
    return gray


@pytest.mark.parametrize("slant", [-0.9, -0.3, 0, 0.1, 0.5])
def test_slanted_digit_is_deslanted(slant: float) -> None:
    upright = deslant(draw_slanted_bar(slant))
    assert abs(max(upright.shape) - DIGIT_SIZE) <= 1
    assert upright.shape[1] == pytest.approx(9, abs=2)
    assert upright[5:-5, 2:-2].min() >= 128


def test_horizontal_digit_is_sheared_up_to_the_limit() -> None:
    upright = deslant(np.ascontiguousarray(draw_slanted_bar(0.3, 46, 9).T))
    assert upright.shape[1] > upright.shape[0]
    assert abs(max(upright.shape) - DIGIT_SIZE) <= 1


@pytest.mark.parametrize("shape", [(1, 46), (46, 1), (1, 1), (2, 3)])
def test_smallest_digits_survive_deslanting(shape: tuple[int, int]) -> None:
    assert deslant(np.full(shape, 255, np.uint8)).max() >= 128


def test_lopsided_digit_stays_in_the_frame() -> None:
    lopsided = np.full((46, 46), 1, np.uint8)
    lopsided[:, :3] = 255
    frame = place_in_frame(lopsided)
    assert np.count_nonzero(frame) == 46 * 46
