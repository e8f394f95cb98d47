"""Synthetic outliers for training (Hendrycks et al.: Deep anomaly detection with outlier exposure, ICLR 2019)."""

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

CANVAS = 2 * FRAME_SIZE  # pixels a side, before framing
MNIST_RESOLUTION_RATIO = 0.6  # share of outliers at MNIST's resolution; else soft edges alone would identify a digit
MNIST_SIDE = 28  # pixels
LOOKALIKES = "BbDgIilOoqSsZz"  # letters that can be read as digits
MAX_ATTEMPTS = 100  # to find a suitable digit; a small data set may have none
LETTERS = sorted(set(string.ascii_letters) - set(LOOKALIKES))
SYMBOLS = "+x-=%?#*&$@:;!"
PRINTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)
SCRIPTS = (cv2.FONT_HERSHEY_SCRIPT_SIMPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX)


def make_outliers(frames: NDArray[np.uint8], count: int, random: Random) -> NDArray[np.uint8]:
    """Return outliers uint8 [count,64,64], some made from digit `frames`; evaluation draws others, new to the model."""
    kinds = list(KINDS)
    outliers = np.empty((count, FRAME_SIZE, FRAME_SIZE), np.uint8)
    for row, kind in enumerate(random.choice(len(kinds), count, p=list(KINDS.values()))):
        outliers[row] = _draw_framed(kinds[kind], frames, random)
    return outliers


def _draw_framed(draw: "Draw", frames: NDArray[np.uint8], random: Random) -> GrayImage:
    while True:
        try:
            frame = frame_page(draw(frames, random)).frame  # no page detection: a texture is not a page
            return frame_page(reduce_to_mnist(frame)).frame if random.random() < MNIST_RESOLUTION_RATIO else frame
        except ImageError:  # blank: draw another one
            continue


def reduce_to_mnist(frame: GrayImage) -> GrayImage:
    """Return the frame at MNIST's resolution, uint8 [28,28]."""
    small: GrayImage = cv2.resize(frame, (MNIST_SIDE, MNIST_SIDE), interpolation=cv2.INTER_AREA)
    return small


def draw_letter(_frames: NDArray[np.uint8], random: Random) -> GrayImage:
    """Draw a letter in a stroke font, slightly rotated, sheared and stretched."""
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    font, letter = int(random.choice(PRINTS + SCRIPTS)), str(random.choice(LETTERS))
    if font in SCRIPTS and letter == "Q":  # looks like a 2
        letter = "R"
    thickness = int(random.integers(2, 12))
    cv2.putText(canvas, letter, (32, 92), font, random.uniform(2, 2.8), 255, thickness, cv2.LINE_AA)
    return _skew_image(canvas, random)


def draw_symbol(_frames: NDArray[np.uint8], random: Random) -> GrayImage:
    """Draw a plus, a times, a dash, a dot or a printed symbol."""
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    thickness, kind = int(random.integers(3, 13)), random.integers(8)
    if kind < 3:  # 0: plus, 1: times, 2: dash
        end = np.array(((1, 0), (1, 1), (1, 0))[kind]) * int(random.integers(20, 40))
        for direction in (end, end[::-1] * (-1, 1))[: 2 - kind // 2]:
            cv2.line(canvas, (64 - direction).tolist(), (64 + direction).tolist(), 255, thickness, cv2.LINE_AA)
    elif kind == 3:
        cv2.circle(canvas, (64, 64), thickness, 255, cv2.FILLED)
    else:
        font, symbol = int(random.choice(PRINTS)), str(random.choice(list(SYMBOLS)))
        cv2.putText(canvas, symbol, (32, 92), font, random.uniform(2, 2.8), 255, thickness, cv2.LINE_AA)
    return _skew_image(canvas, random)


def _skew_image(canvas: GrayImage, random: Random) -> GrayImage:
    angle = random.uniform(-0.3, 0.3)
    rotation = np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))
    skew = rotation @ np.array(((random.uniform(0.6, 1), random.uniform(-0.3, 0.3)), (0, random.uniform(0.6, 1))))
    center = np.full(2, CANVAS / 2)
    skewed: GrayImage = cv2.warpAffine(canvas, np.column_stack((skew, center - skew @ center)), (CANVAS, CANVAS))
    return skewed


def draw_shapes(_frames: NDArray[np.uint8], random: Random) -> GrayImage:
    """Draw one to four filled polygons and ellipses, some with shading."""
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    for _ in range(random.integers(1, 5)):
        level = int(random.integers(60, 256))
        if random.random() < 0.4:
            center, axes = random.integers(40, 88, 2).tolist(), random.integers(6, 50, 2).tolist()
            cv2.ellipse(canvas, center, axes, int(random.integers(180)), 0, 360, level, cv2.FILLED)
        else:
            cv2.fillPoly(canvas, [_draw_corners(random, int(random.integers(3, 9)))], level)
    if random.random() < 0.5:
        canvas = cv2.multiply(canvas, _draw_smooth_noise(random, int(random.integers(2, 12))), scale=1 / 255)
    return canvas


def _draw_corners(random: Random, count: int) -> NDArray[np.int32]:
    """Draw the corners of a polygon without self-intersections."""
    angles = np.sort(random.uniform(0, 2 * np.pi, count))
    reach = random.uniform(15, 60, (count, 1))
    corners: NDArray[np.float64] = CANVAS / 2 + reach * np.column_stack((np.cos(angles), np.sin(angles)))
    return corners.astype(np.int32)


def _draw_smooth_noise(random: Random, knots: int) -> GrayImage:
    """Draw smooth noise uint8 [CANVAS,CANVAS] from a grid of random levels."""
    levels = random.integers(0, 256, (knots, knots), dtype=np.uint8)
    field: GrayImage = cv2.resize(levels, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC)
    return field


def draw_texture(_frames: NDArray[np.uint8], random: Random) -> GrayImage:
    """Draw smooth noise, blots, stripes or checks, on the whole image or a part of it."""
    field = _draw_smooth_noise(random, int(random.integers(3, 40)))
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


def draw_scribble(_frames: NDArray[np.uint8], random: Random) -> GrayImage:
    """Draw two to six random strokes."""
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    thickness = int(random.integers(2, 10))
    for _ in range(random.integers(2, 7)):
        points = np.cumsum(random.normal(0, 18, (int(random.integers(2, 9)), 2)), 0) + random.uniform(30, 98, 2)
        curve = cv2.resize(points.astype(np.float32), (2, 60), interpolation=cv2.INTER_CUBIC)
        cv2.polylines(canvas, [curve.astype(np.int32)], False, 255, thickness, cv2.LINE_AA)
    return canvas


def draw_lines(_frames: NDArray[np.uint8], random: Random) -> GrayImage:
    """Draw printed lines without a digit: an empty box, parallel lines or a grid."""
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    (left, top), (right, bottom) = random.integers(8, 48, 2).tolist(), random.integers(80, 120, 2).tolist()
    width, kind = int(random.integers(1, 6)), random.integers(3)
    rows, columns = np.linspace(top, bottom, random.integers(3, 6)), np.linspace(left, right, random.integers(3, 6))
    if kind == 0:
        rows, columns = rows[[0, -1]], columns[[0, -1]]
    if kind == 1:
        columns = columns[:0]
    for y in rows.astype(int).tolist():
        cv2.line(canvas, (left, y), (right, y), 255, width)
    for x in columns.astype(int).tolist():
        cv2.line(canvas, (x, top), (x, bottom), 255, width)
    return canvas


def draw_cut_digit(frames: NDArray[np.uint8], random: Random) -> GrayImage:
    """Cut a digit so that a third of its columns is left; skip narrow ones, whose part could be a whole 1."""
    for _ in range(MAX_ATTEMPTS):
        digit = frames[random.integers(len(frames))]
        columns = np.flatnonzero(digit.max(0))
        if len(columns) > FRAME_SIZE / 2:
            break
    part = np.array_split(columns, 3)[int(random.choice((0, 2)))]
    return np.ascontiguousarray(digit[:, part])


def draw_digit_pair(frames: NDArray[np.uint8], random: Random) -> GrayImage:
    """Combine two digits, side by side or one above the other."""
    first, second = frames[random.integers(len(frames), size=2)]
    return np.concatenate((first, second), int(random.random() < 0.7))


def draw_sideways_digit(frames: NDArray[np.uint8], random: Random) -> GrayImage:
    """Rotate a digit by 90 degrees; skip round ones, which would still be readable."""
    for _ in range(MAX_ATTEMPTS):
        turned = np.rot90(frames[random.integers(len(frames))], int(random.choice((1, 3))))
        rows, columns = (np.count_nonzero(turned.max(axis)) for axis in (1, 0))
        if columns > 1.4 * rows:
            break
    return np.ascontiguousarray(turned)


Draw = Callable[[NDArray[np.uint8], Random], GrayImage]

KINDS: Final[dict[Draw, float]] = {
    draw_letter: 0.35, draw_shapes: 0.2, draw_texture: 0.15, draw_scribble: 0.1, draw_digit_pair: 0.05,
    draw_sideways_digit: 0.05, draw_cut_digit: 0.05, draw_lines: 0.05,
}  # fmt: skip
