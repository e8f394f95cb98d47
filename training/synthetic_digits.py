"""Synthetic digits in handwriting styles that are rare in MNIST: 1 with an upstroke, crossed 7, curled 9.

The unit of length is the digit's height; x points right from its middle, y down from its top.
"""

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from handler.decoding import GrayImage
from handler.preprocessing import frame_gray
from training.synthetic_outliers import CANVAS, reduce_to_mnist

Random = np.random.Generator
Stroke = list[tuple[float, float]]  # points of a polyline

STYLED_RATIO = 0.1  # share of a digit's images that are replaced, if the digit has such a style
HEIGHT = 80  # pixels; height of a digit on the canvas
THICKNESS = (5, 14)  # pixels
TREMOR = 0.015  # standard deviation of a point, in heights


def replace_some_digits(frames: NDArray[np.uint8], labels: NDArray[np.int64], random: Random) -> NDArray[np.uint8]:
    """Return frames uint8 [N,64,64] with STYLED_RATIO of the digits in STYLES replaced by synthetic ones."""
    frames = frames.copy()
    is_replaced = np.isin(labels, list(STYLES)) & (random.random(len(labels)) < STYLED_RATIO)
    for row in np.flatnonzero(is_replaced):
        frames[row] = draw_digit(int(labels[row]), random)
    return frames


def draw_digit(digit: int, random: Random) -> GrayImage:
    """Draw a digit of STYLES; return its frame uint8 [64,64]."""
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    thickness = int(random.integers(*THICKNESS, endpoint=True))
    for stroke in STYLES[digit](random):
        points = np.array(stroke) + random.normal(0, TREMOR, (len(stroke), 2)) + (0.5, 0.1)
        pixels = points * HEIGHT + (CANVAS - HEIGHT) / 2
        cv2.polylines(canvas, [pixels.round().astype(np.int32)], False, 255, thickness, cv2.LINE_AA)
    return frame_gray(reduce_to_mnist(frame_gray(canvas)))


def draw_one(random: Random) -> list[Stroke]:
    """Draw a 1 with an upstroke and sometimes a base."""
    high, foot, sag = random.uniform(0.2, 0.65), random.uniform(-0.06, 0.06), random.uniform(0, 0.08)
    wide = high * random.uniform(0.4, 1)  # flatter would be a 7
    stem: Stroke = [(-wide, high), (-wide / 2, high / 2 + sag), (0, 0), (foot, 1)]
    base = random.uniform(0.12, 0.35)
    return [stem, [(foot - base, 1), (foot + base, 1)]] if random.random() < 0.4 else [stem]


def draw_seven(random: Random) -> list[Stroke]:
    """Draw a 7 with a bar across the stem and sometimes a hook at the start."""
    wide, foot = random.uniform(0.2, 0.4), random.uniform(-0.2, 0.05)
    top: Stroke = [(-wide, random.uniform(0, 0.08)), (wide, 0), (foot, 1)]
    if random.random() < 0.4:
        top.insert(0, (-wide, random.uniform(0.12, 0.25)))
    height, bar = random.uniform(0.4, 0.65), random.uniform(0.12, 0.3)
    middle = wide + (foot - wide) * height
    return [top, [(middle - bar, height + random.uniform(-0.05, 0.08)), (middle + bar, height)]]


def draw_nine(random: Random) -> list[Stroke]:
    """Draw a 9 with a foot that curls to the left."""
    wide, high = random.uniform(0.16, 0.3), random.uniform(0.18, 0.3)
    turns = np.linspace(-0.25 * np.pi, -random.uniform(1.7, 2.1) * np.pi, 24)
    loop = [(wide * np.cos(turn), high + high * np.sin(turn)) for turn in turns]
    curl, rise = random.uniform(0.1, 0.3), random.uniform(0.02, 0.25)
    bend = np.linspace(0, random.uniform(0.5, 0.85) * np.pi, 12)
    middle = wide - curl
    foot = [(middle + curl * np.cos(turn), 1 - rise + rise * np.sin(turn)) for turn in bend]
    return [loop, [(wide, high * random.uniform(0.4, 1)), *foot, (middle - curl * random.uniform(1, 1.6), foot[-1][1])]]


STYLES: Final[dict[int, Callable[[Random], list[Stroke]]]] = {1: draw_one, 7: draw_seven, 9: draw_nine}
