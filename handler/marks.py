"""What is drawn on the paper: found among specks and shadows, cut out, scaled and placed in MNIST's geometry.

MNIST's geometry: the ink's longer side is 20/28 of the frame's, its centre of mass is in the middle (LeCun, Bottou,
Bengio, Haffner: Gradient-based learning applied to document recognition, Proc. IEEE 86, 1998, section III.A). In the
published pictures that is the pixel of index 14 of 0..27, so a little right of and below the middle.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from operator import add

import cv2
import numpy as np
from numpy.typing import NDArray

from handler.background import NARROW, Foreground
from handler.decoding import GrayImage, ImageError

FRAME_SIZE = 64  # pixels, side of the frame
EXTENT = round(FRAME_SIZE * 20 / 28)  # pixels of the ink's longer side in the frame
CENTRE = FRAME_SIZE * 14.5 / 28 - 0.5  # index of the pixel, across and down, where the centre of mass is placed
NOISE = 4  # grey levels of standard deviation; less needs no smoothing
FLOOR = 2  # standard deviations of the paper's noise that are no ink
BLANK = 6  # the same, for the strongest ink of a picture that is not blank
BLANK_UNEVEN = 14  # the same under uneven light, which makes noise uneven as well
MIN_CONTRAST = 16  # grey levels of 255 between paper and strongest ink; less is a blank sheet
WEAKEST = 0.2  # of the strongest ink, what still belongs to a mark
WEAKEST_UNEVEN = 0.3  # the same under uneven light, which leaves weak remains beside the ink
SPECK = 0.04  # of the largest mark's ink; less is a speck
LEAST_INSIDE = 0.1  # of the largest mark's ink: with so much clear of the picture's edge, the digit is that
WEAK_MARK = 0.5  # of the digit's mean ink; a weaker mark under uneven light is no ink
MOST_SLANT = 1.0  # pixels a row that marks are sheared by at most
LEAST_FACTOR = 0.75  # of size; what would have to shrink more when sheared is not slanted
THINNEST = 2.5  # pixels in the frame; thinner strokes are thickened to about this


@dataclass(frozen=True)
class Components:
    """What is drawn: `kept` uint8 [height,width] is 255 on it, None where there is nothing else on the picture."""

    boxes: NDArray[np.int32]  # [marks,4]: left, top, width, height
    kept: GrayImage | None
    contrast: float  # grey levels of 255, of the strongest ink

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of all marks together, in pixels; right and bottom are outside."""
        lefts, tops, widths, heights = zip(*self.boxes.tolist(), strict=True)
        right, bottom = (max(map(add, *sides)) for sides in ((lefts, widths), (tops, heights)))
        return min(lefts), min(tops), right, bottom


def find_components(ink: Foreground) -> Components:
    """The connected marks of the ink; specks and remains of shadows left out. ImageError 422 if there is none."""
    smooth, noise = ink.levels, ink.noise
    if noise > NOISE:
        smooth, noise = cv2.GaussianBlur(smooth, (3, 3), 0), noise / 2
    contrast = cv2.minMaxLoc(smooth)[1]
    if contrast < max(MIN_CONTRAST, (BLANK if ink.even else BLANK_UNEVEN) * noise):
        raise ImageError(422, "nothing is drawn on the picture; expected one digit that stands out from its background")
    weakest = max((WEAKEST if ink.even else WEAKEST_UNEVEN) * contrast, (FLOOR + 1) * noise)
    mask = cv2.threshold(smooth, weakest, 255, cv2.THRESH_BINARY)[1]
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask)
    if count == 2 and ink.even:
        return Components(boxes[1:, :4], None, contrast)
    keep = _marks_of_the_digit(smooth, labels, boxes, ink.even)
    return Components(boxes[keep, :4], keep.astype(np.uint8)[labels] * np.uint8(255), contrast)


def _marks_of_the_digit(
    ink: GrayImage, labels: NDArray[np.int32], boxes: NDArray[np.int32], even: bool
) -> NDArray[np.bool_]:
    """Which of the labels belong to what is drawn; the first, the paper, never does."""
    squared = np.square(ink.ravel(), dtype=np.float32)  # what is strong counts more than what is wide
    mass = np.bincount(labels.ravel(), squared, len(boxes)).astype(np.float64)
    mass[0] = 0
    if even:
        return np.asarray(mass >= SPECK * mass.max())
    strength = np.sqrt(mass / boxes[:, 4])  # root mean square of a mark's ink
    mass[_at_the_edge(ink.shape, boxes, mass)] = 0
    return np.asarray((mass >= SPECK * mass.max()) & (strength >= WEAK_MARK * strength[mass.argmax()]))


def _at_the_edge(shape: tuple[int, ...], boxes: NDArray[np.int32], mass: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which marks are shadows or things that reach into a photo rather than the digit, which lies inside."""
    left, top, width, height = boxes[:, :4].T
    sides = np.stack((left == 0, left + width == shape[1], top == 0, top + height == shape[0]))
    inside = mass[~sides.any(0)].max(initial=0)
    if inside >= LEAST_INSIDE * mass.max():
        return np.asarray(sides.any(0))
    return np.asarray(sides.all(0) & bool(inside))  # what is all around is the table


def crop_components(ink: Foreground, marks: Components) -> GrayImage:
    """The marks alone, uint8 [h,w] with the longer side EXTENT, contrast stretched to 255."""
    left, top, right, bottom = marks.box
    cut = ink.levels[top:bottom, left:right]
    if marks.kept is not None:
        near = cv2.dilate(marks.kept[top:bottom, left:right], np.ones((3, 3), np.uint8))
        cut = cv2.bitwise_and(cut, near)
    if ink.noise > NOISE:
        cut = cv2.subtract(cut, np.full_like(cut, int(FLOOR * ink.noise)))
    if max(ink.levels.shape) < NARROW:  # the outermost of its few pixels fade to paper, as the others do
        cut = cv2.copyMakeBorder(cut, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    factor = EXTENT / max(cut.shape)
    if factor < 1 / 2:
        cut = _thickened(cut, THINNEST / factor)
    width, height = (max(1, round(side * factor)) for side in cut.shape[::-1])
    method = cv2.INTER_CUBIC if factor >= 1 else cv2.INTER_AREA
    scaled = cv2.resize(cut, (width, height), interpolation=method)
    return _stretched(scaled)


def _stretched(levels: GrayImage) -> GrayImage:
    stretched: GrayImage = cv2.convertScaleAbs(levels, alpha=255 / max(1, cv2.minMaxLoc(levels)[1]))
    return stretched


def deslant(cut: GrayImage) -> GrayImage:
    """The cut-out marks without their slant, uint8 [h,w]; aspect, longer side and contrast are kept.

    Rows are shifted until horizontal and vertical position do not correlate, as LeCun et al. (above) deslant digits.
    """
    moments = cv2.moments(cut)
    slant = min(max(moments["mu11"] / max(moments["mu02"], 1), -MOST_SLANT), MOST_SLANT)
    left, top, wide, high = _sheared_box(cut, slant)
    factor = EXTENT / max(wide, high)
    if factor < LEAST_FACTOR:
        return cut
    step, shift = 1 / factor, slant / factor  # in `cut`, of a pixel across and of a row down
    row = top + (step - 1) / 2  # in `cut`, of the first row
    back = np.array(((step, shift, left + (step - 1) / 2 + slant * row), (0, step, row)))
    size = max(1, round(wide * factor)), max(1, round(high * factor))
    return _stretched(cv2.warpAffine(cut, back, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))


def _sheared_box(cut: GrayImage, slant: float) -> tuple[float, int, int, int]:
    """Left, top, width and height of the marks whose row y is shifted by -slant * y, in pixels."""
    height, width = cut.shape
    room = math.ceil(abs(slant) * height)
    start = -room if slant > 0 else 0
    mask = cv2.threshold(cut, WEAKEST * 255, 1, cv2.THRESH_BINARY)[1]
    back = np.array(((1, slant, start), (0, 1, 0)))
    sheared = cv2.warpAffine(mask, back, (width + room, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    left, top, wide, high = cv2.boundingRect(sheared)
    return left + start, top, wide, high


def _thickened(cut: GrayImage, least: float) -> GrayImage:
    """Strokes thinner than `least` pixels widened to about that, lest they fade when the picture is reduced."""
    _, [width] = measure_foreground(cut[np.newaxis])
    missing = round(least - width)
    if missing < 1:
        return cut
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (missing + 1, missing + 1))
    thicker: GrayImage = cv2.dilate(cut, pen)
    return thicker


def measure_foreground(frames: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Means of frames uint8 [N,height,width], 0..1, and the widths of their strokes in pixels.

    A width is the ink's area over half its outline; more where it is blurred.
    """
    count, height, width = frames.shape
    rows, whole = frames.reshape(-1, width), frames.reshape(count, -1)
    areas = _sums(whole)
    across = _steps(rows[:, :-1], rows[:, 1:], count)
    down = _steps(whole[:, :-width], whole[:, width:], count)
    columns = zip(areas, across, down, strict=True)
    widths = [2.5 * area / max(one + other, 1) for area, one, other in columns]  # steps count 5/4 of the outline
    return [area / (255 * height * width) for area in areas], widths


def _steps(before: NDArray[np.uint8], after: NDArray[np.uint8], count: int) -> list[int]:
    """Summed differences of neighbours, for each of so many frames; 0 where they are one pixel wide or high."""
    return _sums(cv2.absdiff(before, after).reshape(count, -1)) if before.size else [0] * count


def _sums(rows: NDArray[np.uint8]) -> list[int]:
    sums: list[int] = cv2.reduce(rows, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().tolist()
    return sums


def place_in_frame(cut: GrayImage) -> GrayImage:
    """The cut-out marks on a frame uint8 [64,64], their centre of mass at CENTRE as far as they fit."""
    moments = cv2.moments(cut)
    height, width = cut.shape
    mass = max(moments["m00"], 1)
    left, top = (CENTRE - moments[first] / mass for first in ("m10", "m01"))
    left, top = min(max(round(left), 0), FRAME_SIZE - width), min(max(round(top), 0), FRAME_SIZE - height)
    frame = np.zeros((FRAME_SIZE, FRAME_SIZE), np.uint8)
    frame[top : top + height, left : left + width] = cut
    return frame
