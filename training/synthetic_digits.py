"""Synthetic digits in handwriting styles, most of them rare in MNIST, such as a 1 with a flag or a crossed 7."""

import tomllib
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline

from handler.decoding import GrayImage
from handler.preprocessing import frame_gray
from training.synthetic_outliers import CANVAS, reduce_to_mnist

Random = np.random.Generator
Points = NDArray[np.float64]  # [n,2], x to the right from the digit's middle, y down from its top, in heights

MAX_WIDTH, MAX_HEIGHT = 100, 84  # pixels; size of a digit on the canvas
STROKE_WIDTHS = (3.0, 17.0)  # pixels, drawn from a log-uniform distribution
FORMS, FORM_DEVIATION = (-0.1, 1.1), 0.2  # form of a digit, from 0, the style's narrow one, to 1, the wide one
FORM_LIMITS = (-0.3, 1.4)  # of a point, whose form deviates from its digit's
POINT_SHIFT, STROKE_SHIFT = 0.03, 0.02  # standard deviations in heights
POINT_SHIFT_FACTORS = (0.3, 1.5)  # of a digit: some are shakier than others
ROTATION, SLANT, ASPECT = 0.1, 0.2, 0.1  # standard deviations: radians, width per height, logarithm of width / height
BLUR_RATIO, BLURS = 0.15, (0.5, 3.0)  # share of digits, standard deviation in pixels
MNIST_RESOLUTION_RATIO = 0.5  # share of digits
POINTS_PER_KNOT = 10  # points of a drawn curve per point of the style
SUBPIXEL_BITS = 4  # fractional bits of the coordinates that OpenCV draws


def _parse_strokes(text: str) -> list[Points]:
    return [np.array([point.split(",") for point in stroke.split()], float) / 100 for stroke in text.split("|")]


_STYLES_FILE = Path(__file__).with_name("handwriting_styles.toml")
STYLES: Final = {  # digit -> name -> narrow and wide form
    int(digit): {
        name: (_parse_strokes(style["narrow"]), _parse_strokes(style["wide"])) for name, style in styles.items()
    }
    for digit, styles in tomllib.loads(_STYLES_FILE.read_text()).items()
}


def replace_some_digits(
    frames: NDArray[np.uint8], labels: NDArray[np.int64], ratio: float, random: Random
) -> NDArray[np.uint8]:
    """Return frames uint8 [N,64,64] with this share of them replaced by synthetic digits of the same labels."""
    frames = frames.copy()
    for row in np.flatnonzero(random.random(len(labels)) < ratio):
        frames[row] = draw_digit(int(labels[row]), random)
    return frames


def draw_digit(digit: int, random: Random, style: str | None = None) -> GrayImage:
    """Draw a digit in a style, by default a random one of its STYLES; return its frame uint8 [64,64]."""
    narrow, wide = STYLES[digit][style or str(random.choice(list(STYLES[digit])))]
    strokes = _distort_strokes(_vary_strokes(narrow, wide, random), random)
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    stroke_width = round(float(np.exp(random.uniform(*np.log(STROKE_WIDTHS)))))
    for stroke in strokes:
        pixels = (stroke * 2**SUBPIXEL_BITS).round().astype(np.int32)
        cv2.polylines(canvas, [pixels], False, 255, stroke_width, cv2.LINE_AA, SUBPIXEL_BITS)
    if random.random() < BLUR_RATIO:
        cv2.GaussianBlur(canvas, (0, 0), random.uniform(*BLURS), canvas)
    frame = frame_gray(canvas)
    return frame_gray(reduce_to_mnist(frame)) if random.random() < MNIST_RESOLUTION_RATIO else frame


def _vary_strokes(narrow: list[Points], wide: list[Points], random: Random) -> list[Points]:
    """Return curves through points between the two forms, randomly shifted."""
    form, shift = random.uniform(*FORMS), POINT_SHIFT * random.uniform(*POINT_SHIFT_FACTORS)
    strokes = []
    for low, high in zip(narrow, wide, strict=True):
        forms = form + random.normal(0, FORM_DEVIATION, (len(low), 1))
        points = low + (high - low) * forms.clip(*FORM_LIMITS) + random.normal(0, shift, low.shape)
        strokes.append(_interpolate_curve(points + random.normal(0, STROKE_SHIFT, 2)))
    return strokes


def _interpolate_curve(points: Points) -> Points:
    """Return points of the spline through the points, of at most third degree."""
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1) + 1e-3  # the spline needs increasing positions
    positions = np.concatenate(([0], lengths.cumsum()))
    spline = make_interp_spline(positions, points, k=min(3, len(points) - 1))
    return np.asarray(spline(np.linspace(0, positions[-1], POINTS_PER_KNOT * len(points))))


def _distort_strokes(strokes: list[Points], random: Random) -> list[Points]:
    """Rotate, slant and stretch the strokes; scale and center them in pixels of the canvas."""
    angle, slant, stretch = random.normal(0, ROTATION), random.normal(0, SLANT), np.exp(random.normal(0, ASPECT))
    rotation = np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))
    distorted = [stroke @ (rotation @ ((stretch, slant), (0, 1))).T for stroke in strokes]
    low, high = (limit(np.concatenate(distorted), 0) for limit in (np.min, np.max))
    scale = min((MAX_WIDTH, MAX_HEIGHT) / (high - low))
    return [(stroke - (low + high) / 2) * scale + CANVAS / 2 for stroke in distorted]
