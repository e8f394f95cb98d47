"""Pictures of what is no digit, for training alone: letters in stroke fonts, shapes, textures, scribbles, digit pairs.

Training with them teaches the network to be unsure of the rest of the world (Hendrycks, Mazeika, Dietterich: Deep
anomaly detection with outlier exposure, ICLR 2019). All are drawn here, none is taken from a data set.
"""

import string
from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from handler.decoding import GrayImage
from handler.geometry import FRAME_SIZE
from handler.preprocessing import ImageError, frame_page

Random = np.random.Generator

CANVAS = 2 * FRAME_SIZE  # pixels a side of what is drawn before it is framed
AS_MNIST = 0.6  # share that goes through MNIST's resolution, lest soft edges be what tells digits from the rest
MNIST_SIDE = 28  # pixels
LOOKALIKES = "BbDgIilOoqSsZz"  # letters that may well be meant as digits
LETTERS = sorted(set(string.ascii_letters) - set(LOOKALIKES))
SCRIPTS = (cv2.FONT_HERSHEY_SCRIPT_SIMPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX)
STROKE_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    *SCRIPTS,
)


def make_outliers(frames: NDArray[np.uint8], count: int, random: Random) -> NDArray[np.uint8]:
    """Frames uint8 [count,64,64] of no digits; `frames` [N,64,64] are digits, of which pairs are made."""
    kinds = list(KINDS)
    drawn = np.empty((count, FRAME_SIZE, FRAME_SIZE), np.uint8)
    for row, kind in enumerate(random.choice(len(kinds), count, p=list(KINDS.values()))):
        drawn[row] = _framed(kinds[kind], frames, random)
    return drawn


def _framed(draw: "Draw", frames: NDArray[np.uint8], random: Random) -> GrayImage:
    while True:
        try:
            drawn = frame_page(draw(frames, random)).frame  # a patch of texture is no sheet of paper
            return frame_page(_reduced(drawn)).frame if random.random() < AS_MNIST else drawn
        except ImageError:  # nothing to see of it: another one
            continue


def _reduced(frame: GrayImage) -> GrayImage:
    small: GrayImage = cv2.resize(frame, (MNIST_SIDE, MNIST_SIDE), interpolation=cv2.INTER_AREA)
    return small


def letter(_frames: NDArray[np.uint8], random: Random) -> GrayImage:
    """A letter in a stroke font, turned, sheared and stretched a little."""
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    font, sign = int(random.choice(STROKE_FONTS)), str(random.choice(LETTERS))
    if font in SCRIPTS and sign == "Q":  # written like a 2
        sign = "R"
    thickness = int(random.integers(2, 12))
    cv2.putText(canvas, sign, (32, 92), font, random.uniform(2, 2.8), 255, thickness, cv2.LINE_AA)
    return _skewed(canvas, random)


def _skewed(canvas: GrayImage, random: Random) -> GrayImage:
    angle = random.uniform(-0.3, 0.3)
    turn = np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))
    skew = turn @ np.array(((random.uniform(0.6, 1), random.uniform(-0.3, 0.3)), (0, random.uniform(0.6, 1))))
    centre = np.full(2, CANVAS / 2)
    skewed: GrayImage = cv2.warpAffine(canvas, np.column_stack((skew, centre - skew @ centre)), (CANVAS, CANVAS))
    return skewed


def shape(_frames: NDArray[np.uint8], random: Random) -> GrayImage:
    """One to four filled polygons and ellipses, shaded."""
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    for _ in range(random.integers(1, 5)):
        level = int(random.integers(60, 256))
        if random.random() < 0.4:
            centre, axes = random.integers(40, 88, 2).tolist(), random.integers(6, 50, 2).tolist()
            cv2.ellipse(canvas, centre, axes, int(random.integers(180)), 0, 360, level, cv2.FILLED)
        else:
            cv2.fillPoly(canvas, [_corners(random, int(random.integers(3, 9)))], level)
    if random.random() < 0.5:
        canvas = cv2.multiply(canvas, _smooth(random, int(random.integers(2, 12))), scale=1 / 255)
    return canvas


def _corners(random: Random, count: int) -> NDArray[np.int32]:
    """Corners of a polygon that does not cross itself, as clothes and tools have."""
    angles = np.sort(random.uniform(0, 2 * np.pi, count))
    reach = random.uniform(15, 60, (count, 1))
    corners: NDArray[np.float64] = CANVAS / 2 + reach * np.column_stack((np.cos(angles), np.sin(angles)))
    return corners.astype(np.int32)


def _smooth(random: Random, knots: int) -> GrayImage:
    """Smooth noise of all levels."""
    levels = random.integers(0, 256, (knots, knots), dtype=np.uint8)
    field: GrayImage = cv2.resize(levels, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC)
    return field


def texture(_frames: NDArray[np.uint8], random: Random) -> GrayImage:
    """Smooth noise, blots, stripes or checks, on the whole picture or on a part of it."""
    field = _smooth(random, int(random.integers(3, 40)))
    kind = random.integers(4)
    if kind == 1:
        field = np.where(field > random.integers(100, 190), np.uint8(255), np.uint8(0))
    if kind >= 2:
        angle, period = random.uniform(0, np.pi), random.uniform(6, 40)
        rows, columns = np.mgrid[:CANVAS, :CANVAS] / period * 2 * np.pi
        waves = np.sin(np.cos(angle) * rows + np.sin(angle) * columns)
        waves = waves * np.cos(np.cos(angle) * columns - np.sin(angle) * rows) if kind == 3 else waves
        field = (127.5 + 127.5 * waves).astype(np.uint8)
    if random.random() < 0.7:
        top, left = random.integers(0, CANVAS // 2, 2)
        height, width = random.integers(CANVAS // 4, CANVAS // 2, 2)
        field = np.pad(field[top : top + height, left : left + width], 8)
    return field


def scribble(_frames: NDArray[np.uint8], random: Random) -> GrayImage:
    """Two to six strokes that lead nowhere."""
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    thickness = int(random.integers(2, 10))
    for _ in range(random.integers(2, 7)):
        points = np.cumsum(random.normal(0, 18, (int(random.integers(2, 9)), 2)), 0) + random.uniform(30, 98, 2)
        curve = cv2.resize(points.astype(np.float32), (2, 60), interpolation=cv2.INTER_CUBIC)
        cv2.polylines(canvas, [curve.astype(np.int32)], False, 255, thickness, cv2.LINE_AA)
    return canvas


def pair(frames: NDArray[np.uint8], random: Random) -> GrayImage:
    """Two digits, side by side or one above the other."""
    first, second = frames[random.integers(len(frames), size=2)]
    return np.concatenate((first, second), int(random.random() < 0.7))


def lying(frames: NDArray[np.uint8], random: Random) -> GrayImage:
    """A digit on its side that is not round enough to be read all the same."""
    while True:
        turned = np.rot90(frames[random.integers(len(frames))], int(random.choice((1, 3))))
        rows, columns = (np.count_nonzero(turned.max(axis)) for axis in (1, 0))
        if columns > 1.4 * rows:
            return np.ascontiguousarray(turned)


Draw = Callable[[NDArray[np.uint8], Random], GrayImage]

KINDS: Final[dict[Draw, float]] = {letter: 0.35, shape: 0.25, texture: 0.15, scribble: 0.1, pair: 0.1, lying: 0.05}
