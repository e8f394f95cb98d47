"""Synthetic numbers: lines of real digits, composed with random gaps, sizes, slant, baseline and pen."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from handler.decoding import GrayImage
from handler.geometry import measure_foreground

Random = np.random.Generator

WIDE_GAPS, NARROW_GAPS = (0.05, 0.5), (-0.22, 0.02)  # between digits, in heights; digits overlap where it is negative
HEIGHTS = (20, 60)  # pixels of a number's digits
SIZES = (0.85, 1.15)  # height of a digit, relative to its number's
SLANTS, SLANT_DEVIATION = (-0.3, 0.4), 0.05  # pixels to the left per row down: the number's, and the digits' deviation
BASELINE_SHIFT = 0.12  # of a digit, up or down, in heights
SLOPE = 0.08  # of the baseline, up or down, in pixels per pixel
PENS = (0.07, 0.17)  # stroke width of a number's digits, in heights
MAX_THINNING, MAX_THICKENING = 0.02, 0.03  # largest change on either side of a digit's strokes, in heights
BREAK_RATIO, BREAKS = 0.08, (0.02, 0.07)  # share of digits with broken strokes, width of the gap in heights
MARGINS = (0.3, 1.0)  # around the number, in heights
DRAWN_HEIGHT = 160  # pixels of a digit's longer side while the pen is changed
INK_LEVEL = 64  # gray level from which a pixel belongs to a digit


class ComposedNumber(NamedTuple):
    """An image uint8 [height,width], light on dark, and the layers uint8 [digits,height,width] it is composed of."""

    image: GrayImage
    layers: NDArray[np.uint8]


def compose_number(digits: Sequence[GrayImage], gaps: tuple[float, float], random: Random) -> ComposedNumber:
    """Compose digits, light on dark and each alone on its image, from left to right."""
    height, slant, slope = (random.uniform(*limits) for limits in (HEIGHTS, SLANTS, (-SLOPE, SLOPE)))
    pen = random.uniform(*PENS)
    drawn = [_draw_digit(digit, height, slant, pen, random) for digit in digits]
    left, boxes = 0, []
    for digit in drawn:
        middle = slope * left + random.uniform(-BASELINE_SHIFT, BASELINE_SHIFT) * height
        boxes.append((left, round(middle - len(digit) / 2)))
        left += digit.shape[1] + round(random.uniform(*gaps) * height)
    offset = np.min(boxes, 0) - round(random.uniform(*MARGINS) * height)
    ends = [(x + digit.shape[1], y + len(digit)) for (x, y), digit in zip(boxes, drawn, strict=True)]
    width, total_height = np.max(ends, 0) - offset + round(random.uniform(*MARGINS) * height)
    layers = np.zeros((len(drawn), total_height, width), np.uint8)
    for layer, (x, y), digit in zip(layers, boxes - offset, drawn, strict=True):
        layer[y : y + len(digit), x : x + digit.shape[1]] = digit
    return ComposedNumber(layers.max(0), layers)


def _draw_digit(digit: GrayImage, height: float, slant: float, pen: float, random: Random) -> GrayImage:
    """Return the digit, cropped, in this height (pixels) with strokes about `pen` wide."""
    left, top, width, rows = cv2.boundingRect((digit >= INK_LEVEL).view(np.uint8))
    cropped, longer = digit[top : top + rows, left : left + width], max(rows, width)
    scale = DRAWN_HEIGHT / longer
    large = cv2.resize(cropped, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    large = cv2.copyMakeBorder(large, *(DRAWN_HEIGHT // 8,) * 4, cv2.BORDER_CONSTANT)
    if random.random() < BREAK_RATIO:
        start, end = (random.uniform(0, 1, (2, 2)) * large.shape[::-1]).astype(int).tolist()
        cv2.line(large, start, end, 0, round(random.uniform(*BREAKS) * DRAWN_HEIGHT))
    [stroke_width] = measure_foreground(large[np.newaxis])[1]
    change = np.clip(pen - stroke_width / DRAWN_HEIGHT, -2 * MAX_THINNING, 2 * MAX_THICKENING)
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (round(abs(change) * DRAWN_HEIGHT) + 1,) * 2)
    changed = cv2.dilate(large, brush) if change > 0 else cv2.erode(large, brush)
    changed = cv2.convertScaleAbs(changed, alpha=255 / max(1, int(changed.max())))
    step = DRAWN_HEIGHT / (height * random.uniform(*SIZES))  # pixels of `large` per pixel
    blurred = cv2.GaussianBlur(changed, (0, 0), 0.35 * max(step, 1))
    side = max(large.shape) / step
    size = round(side * (1.2 + 2 * abs(slant))), round(side) + 2
    shear = np.array(((step, step * (slant + random.normal(0, SLANT_DEVIATION))), (0, step)))
    shift = np.array(large.shape[::-1]) / 2 - shear @ np.array(size) / 2
    inverse = np.column_stack((shear, shift))
    small = cv2.warpAffine(blurred, inverse, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    left, top, width, rows = cv2.boundingRect((small >= INK_LEVEL).view(np.uint8))
    return np.asarray(small[top : top + rows, left : left + width])
