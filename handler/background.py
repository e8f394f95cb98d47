"""Find the page in a photograph, its gray level and the foreground, whether dark on light or light on dark."""

import math
from typing import NamedTuple

import cv2
import numpy as np

from handler.decoding import WORKING_SIZE, GrayImage

SMALL_SIZE = 64  # longer side, in pixels, of the largest image that the digit may fill, and that is not a photograph
NARROW_SIZE = 24  # side, in pixels, below which strokes and background do not differ in width
MAX_NARROW_NOISE = 3  # noise, in gray levels, along a narrow image's border; more means that the digit crosses it
MIN_DARK_BORDER = 0.8  # share of dark border pixels from which a light page on a darker surface is looked for
MIN_BRIGHT_BORDER = 0.98  # share of bright border pixels from which a dark page on a lighter surface is looked for
MIN_DARK_PAGE_FOREGROUND = 0.005  # share of bright pixels on a dark page; with fewer, it is a stroke
MIN_PAGE_SIZE = 0.4  # shorter side of a page, as a share of the image's shorter side
MIN_RECTANGULARITY = 0.9  # area of a page, as a share of the rectangle around it
MIN_PAGE_BACKGROUND = 0.5  # share of a page's area that is background; with less, it is a 0 or a box
MAX_BAR_NOISE = 12  # gray levels by which a plain bar may deviate; a page differs from it by twice as much
PAGE_EDGE = 4  # pixels cut off along the page's edge
EVEN_DEVIATION = 5  # gray levels beyond the noise by which an evenly lit background may deviate from its median
MIN_EVEN_BORDER = 0.9  # share of border pixels within that deviation; with fewer, the light is uneven
MIN_EVEN_BORDER_SMALL = 0.4  # that share if the digit may fill the image, or if the deviation is at most 1 gray level
MEDIAN_WINDOW = 0.4  # side of the median filter that decides the polarity, as a share of the image's shorter side
MAX_STROKE_WIDTH = 0.25  # share of the image's shorter side; under uneven light, anything wider is background
MIN_RANGE = 64  # gray levels from background to black or white; a smaller range would amplify noise


class Foreground(NamedTuple):
    """The foreground's intensity uint8 [height,width], 0 on the background, and the standard deviation of its noise."""

    intensity: GrayImage
    noise: float
    inverted: bool  # dark on light, unlike MNIST
    is_evenly_lit: bool


class Page(NamedTuple):
    """A page cropped out of an image: its pixels uint8 [height,width] and its left and top in the image."""

    gray: GrayImage
    left: int = 0
    top: int = 0


class Background(NamedTuple):
    """The background's gray level, one number or uint8 [height,width], and the standard deviation of its noise."""

    level: int | GrayImage
    noise: float

    @property
    def is_evenly_lit(self) -> bool:
        return isinstance(self.level, int)


def reduce_image(gray: GrayImage) -> GrayImage:
    """Reduce the image to at most WORKING_SIZE pixels a side by averaging; the aspect ratio is kept."""
    factor = WORKING_SIZE / max(gray.shape)
    if factor >= 1:
        return gray
    height, width = (max(1, round(side * factor)) for side in gray.shape)
    smaller: GrayImage = cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA)
    return smaller


def crop_to_page(gray: GrayImage) -> Page:
    """Crop to the page inside of bars and of a surface that it lies on."""
    between_bars = crop_bars(gray)
    page = crop_page(between_bars.gray)
    return Page(page.gray, between_bars.left + page.left, between_bars.top + page.top)


def crop_page(gray: GrayImage) -> Page:
    """Crop to the light page on a darker surface, or the dark page on a lighter one; leave other images as they are."""
    page = _find_page(gray) if max(gray.shape) > SMALL_SIZE else None
    if page is None:
        return Page(gray)
    inside = cv2.erode(page, np.ones((2 * PAGE_EDGE + 1,) * 2, np.uint8))
    if not inside.any() or np.ptp(gray[inside > 0]) == 0:  # nothing is drawn on it: it is a stroke
        return Page(gray)
    left, top, width, height = cv2.boundingRect(inside)
    filled = np.where(inside, gray, np.uint8(np.median(gray[inside > 0][::16])))
    return Page(filled[top : top + height, left : left + width], left, top)


def crop_bars(gray: GrayImage) -> Page:
    """Crop to the page between or beside plain bars, as of a letterboxed image; leave other images as they are."""
    darkest, lightest = cv2.minMaxLoc(_get_border(gray))[:2]
    if lightest - darkest < 2 * MAX_BAR_NOISE:
        return Page(gray)
    bar = int(gray[0, 0])
    differs = cv2.threshold(cv2.absdiff(gray, bar), MAX_BAR_NOISE, 255, cv2.THRESH_BINARY)[1]
    left, top, width, height = cv2.boundingRect(differs)
    if (height, width) == gray.shape or min(width, height) < MIN_PAGE_SIZE * min(gray.shape):
        return Page(gray)
    blended = 1 if min(width, height) > SMALL_SIZE else 0  # pixels at the edge, where an image was reduced
    left, top, right, bottom = left + blended, top + blended, left + width - blended, top + height - blended
    page = gray[top:bottom, left:right]
    border = _get_border(page)
    level = int(np.median(border))
    is_edge = _compute_share_near(border, bar, MAX_BAR_NOISE) <= 1 - MIN_EVEN_BORDER
    background = _compute_share_near(page, level, 2 * MAX_BAR_NOISE)
    is_page = MIN_PAGE_BACKGROUND <= background <= 1 - MIN_DARK_PAGE_FOREGROUND
    return Page(page, left, top) if is_edge and is_page and abs(level - bar) >= 2 * MAX_BAR_NOISE else Page(gray)


def _find_page(gray: GrayImage) -> GrayImage | None:
    """Return a mask that is 255 on the page and what is drawn on it, 0 around it; None if there is no page."""
    threshold, bright = cv2.threshold(gray, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    border = _get_border(gray)
    bright_share = np.count_nonzero(border > threshold) / len(border)
    if bright_share <= 1 - MIN_DARK_BORDER:
        return _find_large_rectangle(bright)
    page = _find_large_rectangle(cv2.bitwise_not(bright)) if bright_share >= MIN_BRIGHT_BORDER else None
    drawn = 0 if page is None else cv2.countNonZero(cv2.bitwise_and(page, bright))
    return None if page is None or drawn < MIN_DARK_PAGE_FOREGROUND * cv2.countNonZero(page) else page


def _find_large_rectangle(mask: GrayImage) -> GrayImage | None:
    """Return the mask's largest area with its holes filled if it is a large rectangle at any angle with few holes."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contour = max(contours, key=cv2.contourArea, default=None)  # None where the mask is empty
    if contour is None:
        return None
    sides, size = cv2.minAreaRect(contour)[1], cv2.contourArea(contour)
    if min(sides) < MIN_PAGE_SIZE * min(mask.shape) or size < MIN_RECTANGULARITY * sides[0] * sides[1]:
        return None
    area = cv2.drawContours(np.zeros_like(mask), [contour], -1, 255, cv2.FILLED)
    return area if cv2.countNonZero(cv2.bitwise_and(area, mask)) >= MIN_PAGE_BACKGROUND * size else None


def estimate_background(gray: GrayImage) -> Background:
    """Estimate the background: the border's median, or under uneven light the image with its strokes removed."""
    border = _get_border(gray)
    level = int(np.sort(border)[len(border) // 2])
    noise = _estimate_noise(border)
    if max(gray.shape) < NARROW_SIZE and noise > MAX_NARROW_NOISE:  # the median may lie on a stroke
        return Background(min(int(gray.min()), int(gray.max()), key=lambda extreme: abs(extreme - level)), 0.0)
    even_share = _compute_share_near(border, level, EVEN_DEVIATION + 2 * noise)
    if max(gray.shape) <= SMALL_SIZE:
        is_even = min(gray.shape) < NARROW_SIZE or even_share >= MIN_EVEN_BORDER_SMALL
    else:
        is_even = _compute_share_near(border, level, 1) >= MIN_EVEN_BORDER_SMALL or even_share >= MIN_EVEN_BORDER
    return Background(level, noise) if is_even else _estimate_uneven_background(gray)


def _get_border(gray: GrayImage) -> GrayImage:
    return np.concatenate((gray[0], gray[:, -1], gray[-1], gray[:, 0]))


def _estimate_noise(border: GrayImage) -> float:
    """Estimate the standard deviation of normal noise by the median step between neighbors; strokes are rarer."""
    steps = np.sort(cv2.absdiff(border[1:], border[:-1]).ravel())
    return float(steps[len(steps) // 2]) * 1.05


def _compute_share_near(pixels: GrayImage, level: int, deviation: float) -> float:
    """Return the share of the pixels that differ from the level by at most the deviation."""
    near = cv2.inRange(pixels, math.ceil(level - deviation), math.floor(level + deviation))  # it rounds its limits
    return cv2.countNonZero(near) / max(1, pixels.size)


def _estimate_uneven_background(gray: GrayImage) -> Background:
    side = min(gray.shape)
    median = cv2.medianBlur(gray, min(int(side * MEDIAN_WINDOW) | 1, 255))
    inverted = cv2.norm(cv2.subtract(median, gray)) > cv2.norm(cv2.subtract(gray, median))
    smooth = cv2.medianBlur(gray, 3)
    window = cv2.getStructuringElement(cv2.MORPH_RECT, (max(3, int(side * MAX_STROKE_WIDTH) | 1),) * 2)
    level = cv2.morphologyEx(smooth, cv2.MORPH_CLOSE if inverted else cv2.MORPH_OPEN, window)
    return Background(level, float(np.median(cv2.absdiff(smooth, level)[::4, ::4])) * 1.48)


def extract_foreground(gray: GrayImage, background: Background) -> Foreground:
    """Extract the difference from the background: 0 on the background, 255 for black on white or white on black."""
    level = np.full(gray.shape, background.level, np.uint8)  # twice as fast as full_like
    darker, lighter = cv2.subtract(level, gray), cv2.subtract(gray, level)
    inverted = cv2.norm(darker) > cv2.norm(lighter)
    range_ = np.maximum(background.level if inverted else 255 - background.level, MIN_RANGE)
    largest = np.full(gray.shape, range_, np.uint8)
    intensity = cv2.divide(darker if inverted else lighter, largest, scale=255)
    return Foreground(intensity, background.noise * 255 / cv2.mean(largest)[0], inverted, background.is_evenly_lit)
