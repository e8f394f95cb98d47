"""What a picture is drawn on: a sheet on a table, its level under even and uneven light, and the ink that stands out.

All of it works for dark ink on light paper and for light ink on dark alike.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

from handler.decoding import WORKING_SIDE, GrayImage

SMALL = 64  # pixels of the longer side; a picture of no more may be filled by its digit and is no photo
NARROW = 24  # pixels of a side; less is too few to tell strokes from paper by their width
TINY_NOISE = 3  # grey levels; larger steps along the border of a picture narrow in both ways are a digit's
TABLE = 0.8  # of the border's pixels dark, where a sheet of paper lies on a darker table
BRIGHT_TABLE = 0.98  # of the border's pixels bright, where a dark card lies on a lighter table
DRAWN = 0.005  # of a dark card, what is bright on it; less, and it is a stroke
SHEET = 0.4  # of the picture's shorter side, the least of such a sheet's sides
SHEET_FILLED = 0.9  # of the rectangle around it
SHEET_PLAIN = 0.5  # of it, at least, is paper; less, and it is a 0 or a box
SHEET_EDGE = 4  # pixels of the sheet's edge that are cut off
UNEVEN = 5  # grey levels, beyond its noise, that an evenly lit paper keeps to
EVEN_BORDER = 0.9  # of the border's pixels that do so, else the light is uneven
LEAST_BORDER = 0.4  # the same where the digit may fill the picture: a small one, or one whose paper is one level
SURROUNDINGS = 0.4  # of the shorter side: ink is darker, or lighter, than the median of so wide a square around it
STROKE = 0.25  # of the shorter side; under uneven light what is wider is no stroke
LEAST_RANGE = 64  # grey levels from paper to black or white; less is taken for as much, else its noise would grow


class Foreground(NamedTuple):
    """What stands out from the paper: `levels` uint8 [height,width], and the standard deviation of their noise."""

    levels: GrayImage
    noise: float
    inverted: bool  # dark on light, other than MNIST's
    even: bool  # seen under even light


class Background(NamedTuple):
    """The background: its grey level, one for all or uint8 [height,width], and its noise's standard deviation."""

    level: int | GrayImage
    noise: float

    @property
    def even(self) -> bool:
        return isinstance(self.level, int)


def reduce_image(grey: GrayImage) -> GrayImage:
    """The picture with at most LARGE pixels a side, averaged, aspect kept."""
    factor = WORKING_SIDE / max(grey.shape)
    if factor >= 1:
        return grey
    height, width = (max(1, round(side * factor)) for side in grey.shape)
    smaller: GrayImage = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    return smaller


def crop_page(grey: GrayImage) -> GrayImage:
    """The sheet of paper on a darker table, or the dark card on a lighter one, cut out; any other picture as it is."""
    area = _area_of_sheet(grey) if max(grey.shape) > SMALL else None
    if area is None:
        return grey
    inside = cv2.erode(area, np.ones((2 * SHEET_EDGE + 1,) * 2, np.uint8))
    if not inside.any() or np.ptp(grey[inside > 0]) == 0:  # nothing is drawn on it: it is a stroke
        return grey
    left, top, width, height = cv2.boundingRect(inside)
    filled = np.where(inside, grey, np.uint8(np.median(grey[inside > 0][::16])))
    return filled[top : top + height, left : left + width]


def _area_of_sheet(grey: GrayImage) -> GrayImage | None:
    """255 on the sheet or card and what is drawn on it, 0 around it; None if there is none."""
    split, bright = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    light = np.count_nonzero(_border(grey) > split) / len(_border(grey))
    if light <= 1 - TABLE:
        return _large_rectangle(bright)
    card = _large_rectangle(cv2.bitwise_not(bright)) if light >= BRIGHT_TABLE else None
    if card is None or cv2.countNonZero(cv2.bitwise_and(card, bright)) < DRAWN * cv2.countNonZero(card):
        return None
    return card


def _large_rectangle(mask: GrayImage) -> GrayImage | None:
    """The mask's largest area with its holes filled, if that is a large rectangle, askew perhaps, of few holes."""
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outline = max(outlines, key=cv2.contourArea, default=None)  # none where the mask is empty
    if outline is None:
        return None
    sides, size = cv2.minAreaRect(outline)[1], cv2.contourArea(outline)
    if min(sides) < SHEET * min(mask.shape) or size < SHEET_FILLED * sides[0] * sides[1]:
        return None
    area = cv2.drawContours(np.zeros_like(mask), [outline], -1, 255, cv2.FILLED)
    return area if cv2.countNonZero(cv2.bitwise_and(area, mask)) >= SHEET_PLAIN * size else None


def estimate_background(grey: GrayImage) -> Background:
    """The paper: the border's median, or under uneven light what is left of the picture without its strokes."""
    border = _border(grey)
    level = int(np.sort(border)[len(border) // 2])
    noise = _noise(border)
    if max(grey.shape) < NARROW and noise > TINY_NOISE:
        return Background(_nearest_extreme(grey, level), 0.0)
    if max(grey.shape) <= SMALL:
        even = min(grey.shape) < NARROW or _share(border, level, UNEVEN + 2 * noise) >= LEAST_BORDER
    else:
        even = _share(border, level, 1) >= LEAST_BORDER or _share(border, level, UNEVEN + 2 * noise) >= EVEN_BORDER
    return Background(level, noise) if even else Background(*_under_uneven_light(grey))


def _nearest_extreme(grey: GrayImage, level: int) -> int:
    """The darkest or brightest level: where a digit fills its picture, the border's median may be a stroke's edge."""
    darkest, brightest = int(grey.min()), int(grey.max())
    return darkest if level - darkest <= brightest - level else brightest


def _border(grey: GrayImage) -> GrayImage:
    return np.concatenate((grey[0], grey[:, -1], grey[-1], grey[:, 0]))


def _noise(border: GrayImage) -> float:
    """Standard deviation of normal noise, from the median step between neighbours: ink is rarer."""
    steps = np.sort(cv2.absdiff(border[1:], border[:-1]).ravel())
    return float(steps[len(steps) // 2]) * 1.05


def _share(pixels: GrayImage, level: int, near: float) -> float:
    """Share of the pixels that differ from the level by no more than `near`."""
    within = cv2.inRange(pixels, math.ceil(level - near), math.floor(level + near))  # which itself rounds its limits
    return cv2.countNonZero(within) / max(1, pixels.size)


def _under_uneven_light(grey: GrayImage) -> tuple[GrayImage, float]:
    side = min(grey.shape)
    middle = cv2.medianBlur(grey, min(int(side * SURROUNDINGS) | 1, 255))
    inverted = cv2.norm(cv2.subtract(middle, grey)) > cv2.norm(cv2.subtract(grey, middle))
    smooth = cv2.medianBlur(grey, 3)
    window = cv2.getStructuringElement(cv2.MORPH_RECT, (max(3, int(side * STROKE) | 1),) * 2)
    level = cv2.morphologyEx(smooth, cv2.MORPH_CLOSE if inverted else cv2.MORPH_OPEN, window)
    return level, float(np.median(cv2.absdiff(smooth, level)[::4, ::4])) * 1.48


def extract_foreground(grey: GrayImage, paper: Background) -> Foreground:
    """What differs from the paper: 0 for paper, 255 for black on white or white on black."""
    level = np.full(grey.shape, paper.level, np.uint8)  # twice as fast as full_like
    dark, light = cv2.subtract(level, grey), cv2.subtract(grey, level)
    inverted = cv2.norm(dark) > cv2.norm(light)
    most = np.full(grey.shape, np.maximum(paper.level if inverted else 255 - paper.level, LEAST_RANGE), np.uint8)
    ink = cv2.divide(dark if inverted else light, most, scale=255)
    return Foreground(ink, paper.noise * 255 / cv2.mean(most)[0], inverted, paper.even)
