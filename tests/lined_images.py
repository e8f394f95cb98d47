"""Digits as people send them: in boxes, on ruled or squared paper, between bars, tiny, and with lines over them."""

from collections.abc import Callable
from functools import partial
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.corruptions import Corruption, Images

Random = np.random.Generator
Box = NDArray[np.float64]  # left, top, right, bottom, in pixels
DrawLines = Callable[[Images, Box, Random], None]

DIGIT_SIZES: Final = (30, 200)  # pixels, longer side of the digit; lengths below are shares of it
MARGINS: Final = (0.6, 1.2)  # distance from the digit to the image's edges
STROKE_EDGE: Final = 0.35  # share of the intensity within which a stroke's edge rises
PAGES, PENS = (190, 255), (0, 80)  # gray levels
LINE_STRENGTHS: Final = (0.25, 1.0)  # contrast of the lines, as a share of the pen's
BLURS, MAX_NOISE = (0.3, 1.0), 4.0  # sigma in pixels, and in gray levels
DARK_RATIO: Final = 0.6  # share of images with dark strokes on a light page
LINE_WIDTHS: Final = (0.01, 0.06)
BOX_GAPS, TOUCHING_GAPS = (0.08, 0.5), (-0.12, 0.0)  # distance from the digit to the box
DOUBLE_DISTANCE: Final = 2.5  # between double lines, relative to their width
DOUBLE_RATIO, CELL_RATIO = 0.2, 0.3  # shares of boxes with double lines, and of those whose lines cross the image
MAX_TILT: Final = 5.0  # degrees in both directions
LINE_SPACINGS: Final = (0.3, 1.4)
BARS: Final = (0.08, 0.35)  # width of a bar, as a share of the page's shorter side
TINY_SIDES, STRETCHED_RATIO = (10, 18), 0.5  # pixels; share of tiny digits that are stretched to a square
ZIGZAG: Final = 2  # pixels of 28, amplitude; half of the lines over the digit are straight
OVER_WIDTHS: Final = (0.75, 1.25)  # pixels of 28, width of a line over the digit


def draw_box(canvas: Images, digit: Box, random: Random, is_touching: bool) -> None:
    """Draw a box or form cell, once or twice, around the digit; one or two sides may touch or cross the digit."""
    gaps, touching = random.uniform(*BOX_GAPS, 4), random.permutation(4)[: random.integers(1, 3)]
    if is_touching:
        gaps[touching] = random.uniform(*TOUCHING_GAPS, len(touching))
    size = max(digit[2:] - digit[:2])
    width = max(1, round(random.uniform(*LINE_WIDTHS) * size))
    for outer in range(2 if random.random() < DOUBLE_RATIO else 1):
        box = digit + (gaps * size + outer * DOUBLE_DISTANCE * width) * (-1, -1, 1, 1)
        left, top, right, bottom = np.rint(box).astype(int).tolist()
        if random.random() < CELL_RATIO:
            _draw_lines(canvas, [left, right], [top, bottom], width)
        cv2.rectangle(canvas, (left, top), (right, bottom), 255, width)


def draw_paper(canvas: Images, digit: Box, random: Random, is_squared: bool) -> None:
    """Draw the lines of ruled or squared paper."""
    size = max(digit[2:] - digit[:2])
    spacing, width = random.uniform(*LINE_SPACINGS) * size, max(1, round(random.uniform(*LINE_WIDTHS) / 2 * size))
    columns, rows = (np.arange(random.uniform(0, spacing), side, spacing).tolist() for side in canvas.shape[::-1])
    _draw_lines(canvas, columns if is_squared else [], rows, width)


def _draw_lines(canvas: Images, columns: list[float], rows: list[float], width: int) -> None:
    height, length = canvas.shape
    for x in columns:
        cv2.line(canvas, (round(x), 0), (round(x), height), 255, width)
    for y in rows:
        cv2.line(canvas, (0, round(y)), (length, round(y)), 255, width)


def make_page(gray: Images, random: Random, draw: DrawLines | None = None) -> Images:
    """Write the digit on a page and draw lines, a little tilted: dark on light or light on dark."""
    rows, columns = (np.flatnonzero(gray.max(axis) >= 64)[[0, -1]] for axis in (1, 0))
    box = np.array((columns[0], rows[0], columns[1] + 1, rows[1] + 1), float)
    scale = random.uniform(*DIGIT_SIZES) / max(box[2:] - box[:2])
    left, top, right, bottom = random.uniform(*MARGINS, 4) * scale * max(box[2:] - box[:2])
    shift = np.array((left, top)) - scale * box[:2]
    size = np.rint(shift + scale * box[2:] + (right, bottom)).astype(int)
    matrix = np.column_stack((np.eye(2) * scale, shift))
    digit = cv2.warpAffine(gray, matrix, size.tolist(), flags=cv2.INTER_CUBIC)
    stroke = ((cv2.GaussianBlur(digit, (0, 0), 0.3 * scale) / 255 - 0.5) / STROKE_EDGE + 0.5).clip(0, 1)
    lines = np.zeros(digit.shape, np.uint8)
    if draw:
        draw(lines, scale * box + np.tile(shift, 2), random)
    rotation = cv2.getRotationMatrix2D((size / 2).tolist(), random.uniform(-MAX_TILT, MAX_TILT), 1)
    lines = cv2.warpAffine(lines, rotation, size.tolist(), borderMode=cv2.BORDER_REPLICATE)
    page, pen = random.uniform(*PAGES), random.uniform(*PENS)
    image = page + (pen - page) * np.maximum(stroke, lines / 255 * random.uniform(*LINE_STRENGTHS))
    noise = random.normal(0, random.uniform(0, MAX_NOISE), image.shape)
    dark = (cv2.GaussianBlur(image, (0, 0), random.uniform(*BLURS)) + noise).clip(0, 255).astype(np.uint8)
    return np.asarray(dark if random.random() < DARK_RATIO else 255 - dark)


def letterbox(gray: Images, random: Random) -> Images:
    """Write the digit on a page between two plain bars."""
    page = make_page(gray, random)
    bar = round(random.uniform(*BARS) * min(page.shape))
    sides = [(bar, bar), (0, 0)][:: random.choice((1, -1))]
    return np.pad(page, sides, constant_values=random.choice((0, 40, 128, 255)))


def reduce_to_binary(gray: Images, random: Random) -> Images:
    """Reduce the digit to a few black and white pixels that it almost fills."""
    rows, columns = (np.flatnonzero(gray.max(axis) >= 64) for axis in (1, 0))
    digit = np.ascontiguousarray(gray[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    shape = np.array(digit.shape[::-1])
    longest = shape.max() if random.random() >= STRETCHED_RATIO else shape
    size = np.maximum(1, np.rint(random.integers(*TINY_SIDES, endpoint=True) * shape / longest)).astype(int)
    small = cv2.resize(digit, size.tolist(), interpolation=cv2.INTER_AREA)
    padded = np.pad(small, [tuple(pair) for pair in random.integers(0, 3, (2, 2))])
    return np.where((padded >= 0.4 * small.max()) == bool(random.integers(2)), 255, 0).astype(np.uint8)


def draw_over(gray: Images, random: Random) -> Images:
    """Draw a straight or zigzag line over the digit, as bright as the digit and thinner than most strokes."""
    large = cv2.resize(gray, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    columns = np.arange(2, 27, 4)
    rows = np.interp(columns, (2, 26), random.uniform(3, 25, 2)) + random.choice((0, ZIGZAG)) * (-1) ** (columns // 4)
    points = np.rint(4 * np.stack((columns, rows), 1)).astype(np.int32)
    cv2.polylines(large, [points], False, 255, round(4 * random.uniform(*OVER_WIDTHS)))
    return np.asarray(cv2.resize(large, gray.shape[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def _apply(draw: Callable[[Images, Random], Images]) -> Corruption:
    return lambda images, random: [draw(image, random) for image in images]


LINED_IMAGES: Final[dict[str, Corruption]] = {  # light on dark uint8 [N,28,28] -> N images
    "boxed": _apply(partial(make_page, draw=partial(draw_box, is_touching=False))),
    "box touches digit": _apply(partial(make_page, draw=partial(draw_box, is_touching=True))),
    "ruled": _apply(partial(make_page, draw=partial(draw_paper, is_squared=False))),
    "squared": _apply(partial(make_page, draw=partial(draw_paper, is_squared=True))),
    "letterboxed": _apply(letterbox),
    "tiny and binary": _apply(reduce_to_binary),
    "line over digit": _apply(draw_over),
}
