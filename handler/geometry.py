"""Crop, deslant, scale and place the digit in MNIST's geometry.

MNIST's geometry: the foreground's longer side is 20/28 of the frame's, its center of mass is in the middle (LeCun,
Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, Proc. IEEE 86, 1998, section III.A).
In the published images that is the pixel of index 14 of 0..27, a little right of and below the middle.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from handler.background import NARROW_SIZE, Foreground
from handler.decoding import GrayImage
from handler.segmentation import FOREGROUND_THRESHOLD, NOISE_FLOOR, SMOOTHING_NOISE, Components

FRAME_SIZE = 64  # pixels; side of the frame
DIGIT_SIZE = round(FRAME_SIZE * 20 / 28)  # pixels; longer side of the foreground in the frame
CENTER = FRAME_SIZE * 14.5 / 28 - 0.5  # pixel index, across and down, of the center of mass in the frame
MAX_SLANT = 1.0  # pixels a row; the digit is sheared by no more
MIN_DESLANT_SCALE = 0.75  # a digit that would have to shrink more when sheared is not slanted
MAX_GRAY_RATIO = 0.1  # pixels between black and white, relative to white ones, of a digit whose edges are steps
STEP_BLUR, MAX_STEP_BLUR = 0.035, 0.8  # sigma of the blur that smooths steps: a share of the longer side, and pixels
STEP_GAIN, STEP_OFFSET = 1.4, -36  # contrast and gray levels that make blurred strokes as wide as before
MIN_STROKE_WIDTH = 2.5  # pixels in the frame; thinner strokes are thickened to about this


def crop_components(foreground: Foreground, components: Components) -> GrayImage:
    """Crop to the components, uint8 [height,width]: longer side DIGIT_SIZE, contrast stretched to 255."""
    left, top, right, bottom = components.box
    digit = foreground.intensity[top:bottom, left:right]
    if components.mask is not None:
        near = cv2.dilate(components.mask[top:bottom, left:right], np.ones((3, 3), np.uint8))
        digit = cv2.bitwise_and(digit, near)
    if foreground.noise > SMOOTHING_NOISE:
        digit = cv2.subtract(digit, np.full_like(digit, int(NOISE_FLOOR * foreground.noise)))
    has_steps = max(digit.shape) < DIGIT_SIZE and _has_steps(digit, components.contrast)
    if has_steps or max(foreground.intensity.shape) < NARROW_SIZE:  # lets the outermost pixels fade to background too
        digit = cv2.copyMakeBorder(digit, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    if has_steps:
        sigma = min(MAX_STEP_BLUR, STEP_BLUR * max(digit.shape))
        digit = cv2.GaussianBlur(digit, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    scale = DIGIT_SIZE / max(digit.shape)
    if scale < 1 / 2:
        digit = _thicken_strokes(digit, MIN_STROKE_WIDTH / scale)
    width, height = (max(1, round(side * scale)) for side in digit.shape[::-1])
    method = cv2.INTER_CUBIC if scale >= 1 else cv2.INTER_AREA
    stretched = _stretch_contrast(cv2.resize(digit, (width, height), interpolation=method))
    return cv2.addWeighted(stretched, STEP_GAIN, stretched, 0, STEP_OFFSET) if has_steps else stretched


def _has_steps(digit: GrayImage, contrast: float) -> bool:
    """Return whether the digit is black and white, so that the edges of its strokes are steps of whole pixels."""
    masks = [cv2.threshold(digit, ratio * contrast, 255, cv2.THRESH_BINARY)[1] for ratio in (0.8, 0.2)]
    white, not_black = map(cv2.countNonZero, masks)
    return not_black - white < MAX_GRAY_RATIO * white


def _stretch_contrast(digit: GrayImage) -> GrayImage:
    stretched: GrayImage = cv2.convertScaleAbs(digit, alpha=255 / max(1, cv2.minMaxLoc(digit)[1]))
    return stretched


def deslant(digit: GrayImage) -> GrayImage:
    """Shear a digit uint8 [height,width] until x and y do not correlate (LeCun et al.); keep the longer side."""
    moments = cv2.moments(digit)
    slant = min(max(moments["mu11"] / max(moments["mu02"], 1), -MAX_SLANT), MAX_SLANT)
    left, top, width, height = _compute_sheared_box(digit, slant)
    scale = DIGIT_SIZE / max(width, height)
    if scale < MIN_DESLANT_SCALE:
        return digit
    step, shift = 1 / scale, slant / scale  # pixels of `digit` per pixel across and per row down
    row = top + (step - 1) / 2  # row of `digit` that becomes the first
    inverse = np.array(((step, shift, left + (step - 1) / 2 + slant * row), (0, step, row)))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return _stretch_contrast(cv2.warpAffine(digit, inverse, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))


def _compute_sheared_box(digit: GrayImage, slant: float) -> tuple[float, int, int, int]:
    """Return left, top, width and height, in pixels, of the digit with row y shifted by -slant * y."""
    height, width = digit.shape
    margin = math.ceil(abs(slant) * height)
    start = -margin if slant > 0 else 0
    mask = cv2.threshold(digit, FOREGROUND_THRESHOLD * 255, 1, cv2.THRESH_BINARY)[1]
    inverse = np.array(((1, slant, start), (0, 1, 0)))
    size = width + margin, height
    sheared = cv2.warpAffine(mask, inverse, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    left, top, width, height = cv2.boundingRect(sheared)
    return left + start, top, width, height


def _thicken_strokes(digit: GrayImage, min_width: float) -> GrayImage:
    """Widen strokes thinner than `min_width` pixels to about that, so that they survive scaling down."""
    _, [width] = measure_foreground(digit[np.newaxis])
    missing = round(min_width - width)
    if missing < 1:
        return digit
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (missing + 1, missing + 1))
    thicker: GrayImage = cv2.dilate(digit, pen)
    return thicker


def measure_foreground(frames: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Return the means, 0..1, and the stroke widths, in pixels, of frames uint8 [N,height,width].

    The stroke width is the foreground's area over half the length of its outline; blur makes it larger.
    """
    count, height, width = frames.shape
    rows, flat = frames.reshape(-1, width), frames.reshape(count, -1)
    areas = _sum_rows(flat)
    across = _sum_steps(rows[:, :-1], rows[:, 1:], count)
    down = _sum_steps(flat[:, :-width], flat[:, width:], count)
    columns = zip(areas, across, down, strict=True)
    widths = [2.5 * area / max(x + y, 1) for area, x, y in columns]  # steps count 5/4 of the outline
    return [area / (255 * height * width) for area in areas], widths


def _sum_steps(first: NDArray[np.uint8], second: NDArray[np.uint8], count: int) -> list[int]:
    """Sum the differences of neighbors in each of `count` frames; 0 where frames are one pixel wide or high."""
    return _sum_rows(cv2.absdiff(first, second).reshape(count, -1)) if first.size else [0] * count


def _sum_rows(rows: NDArray[np.uint8]) -> list[int]:
    sums: list[int] = cv2.reduce(rows, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().tolist()
    return sums


def place_in_frame(digit: GrayImage) -> GrayImage:
    """Place the cropped digit in a frame uint8 [64,64], its center of mass at CENTER as far as it fits."""
    moments = cv2.moments(digit)
    height, width = digit.shape
    mass = max(moments["m00"], 1)
    left, top = (CENTER - moments[name] / mass for name in ("m10", "m01"))
    left, top = min(max(round(left), 0), FRAME_SIZE - width), min(max(round(top), 0), FRAME_SIZE - height)
    frame = np.zeros((FRAME_SIZE, FRAME_SIZE), np.uint8)
    frame[top : top + height, left : left + width] = digit
    return frame
