"""Digits as other schools teach them and MNIST hardly has them, drawn here: 1 with an upstroke, barred 7, curled 9.

Lengths are shares of the digit's height; x goes right, y down from the digit's top, x = 0 is its middle.
"""

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from handler.decoding import GrayImage
from handler.preprocessing import frame_gray
from training.synthetic_outliers import CANVAS, MNIST_SIDE

Random = np.random.Generator
Stroke = list[tuple[float, float]]  # points that a pen passes

SHARE = 0.1  # of the pictures of a digit that has such a style
HEIGHT = 80  # pixels, of a digit on the canvas
THICKNESS = (5, 14)  # pixels
TREMBLE = 0.015  # standard deviation of a point


def replace_some_digits(frames: NDArray[np.uint8], labels: NDArray[np.int64], random: Random) -> NDArray[np.uint8]:
    """Frames uint8 [N,64,64] of the labels [N], SHARE of those in STYLES drawn anew in that style."""
    frames = frames.copy()
    chosen = np.isin(labels, list(STYLES)) & (random.random(len(labels)) < SHARE)
    for row in np.flatnonzero(chosen):
        frames[row] = draw_digit(int(labels[row]), random)
    return frames


def draw_digit(digit: int, random: Random) -> GrayImage:
    """The digit, one of STYLES, as a frame uint8 [64,64]."""
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    thickness = int(random.integers(*THICKNESS, endpoint=True))
    for stroke in STYLES[digit](random):
        points = np.array(stroke) + random.normal(0, TREMBLE, (len(stroke), 2)) + (0.5, 0.1)
        place = points * HEIGHT + (CANVAS - HEIGHT) / 2
        cv2.polylines(canvas, [place.round().astype(np.int32)], False, 255, thickness, cv2.LINE_AA)
    return frame_gray(cv2.resize(frame_gray(canvas), (MNIST_SIDE, MNIST_SIDE), interpolation=cv2.INTER_AREA))


def one(random: Random) -> list[Stroke]:
    """An upstroke; sometimes a base."""
    high, foot, sag = random.uniform(0.2, 0.65), random.uniform(-0.06, 0.06), random.uniform(0, 0.08)
    wide = high * random.uniform(0.4, 1)  # flatter would be a 7
    stem: Stroke = [(-wide, high), (-wide / 2, high / 2 + sag), (0, 0), (foot, 1)]
    base = random.uniform(0.12, 0.35)
    return [stem, [(foot - base, 1), (foot + base, 1)]] if random.random() < 0.4 else [stem]


def seven(random: Random) -> list[Stroke]:
    """A bar across the stem; sometimes a hook at the start."""
    wide, foot = random.uniform(0.2, 0.4), random.uniform(-0.2, 0.05)
    top: Stroke = [(-wide, random.uniform(0, 0.08)), (wide, 0), (foot, 1)]
    if random.random() < 0.4:
        top.insert(0, (-wide, random.uniform(0.12, 0.25)))
    height, bar = random.uniform(0.4, 0.65), random.uniform(0.12, 0.3)
    middle = wide + (foot - wide) * height
    return [top, [(middle - bar, height + random.uniform(-0.05, 0.08)), (middle + bar, height)]]


def nine(random: Random) -> list[Stroke]:
    """A foot that curls back to the left."""
    wide, high = random.uniform(0.16, 0.3), random.uniform(0.18, 0.3)
    turns = np.linspace(-0.25 * np.pi, -random.uniform(1.7, 2.1) * np.pi, 24)
    loop = [(wide * np.cos(turn), high + high * np.sin(turn)) for turn in turns]
    curl, rise = random.uniform(0.1, 0.3), random.uniform(0.02, 0.25)
    bend = np.linspace(0, random.uniform(0.5, 0.85) * np.pi, 12)
    middle = wide - curl
    foot = [(middle + curl * np.cos(turn), 1 - rise + rise * np.sin(turn)) for turn in bend]
    return [loop, [(wide, high * random.uniform(0.4, 1)), *foot, (middle - curl * random.uniform(1, 1.6), foot[-1][1])]]


STYLES: Final[dict[int, Callable[[Random], list[Stroke]]]] = {1: one, 7: seven, 9: nine}
