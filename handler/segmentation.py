"""Find the connected components of the foreground that belong to the digit, among specks and shadows."""

from dataclasses import dataclass
from functools import cached_property
from operator import add

import cv2
import numpy as np
from numpy.typing import NDArray

from handler.background import Foreground
from handler.decoding import GrayImage, ImageError

SMOOTHING_NOISE = 4  # standard deviation of the noise, in gray levels, above which the image is smoothed
NOISE_FLOOR = 2  # standard deviations of the noise, subtracted from noisy digits; components must exceed one more
MIN_CONTRAST = 16  # minimum contrast of an image that is not blank, in gray levels of 255
MIN_CONTRAST_TO_NOISE = 6  # minimum contrast, in standard deviations of the noise
MIN_CONTRAST_TO_NOISE_UNEVEN = 14  # minimum contrast under uneven light, which makes the noise uneven as well
FOREGROUND_THRESHOLD = 0.2  # share of the contrast; weaker pixels belong to no component
FOREGROUND_THRESHOLD_UNEVEN = 0.3  # threshold under uneven light, which leaves weak remains beside the strokes
MIN_COMPONENT_MASS = 0.04  # share of the largest component's mass; a component with less is a speck
MIN_INNER_MASS = 0.05  # share of the largest component's mass from which a component inside the image is the digit
MIN_DIGIT_HEIGHT = 0.4  # share of the median height in a number; a lower component is a speck, a dot, a bar or a dash
MIN_DIGIT_MASS = 0.01  # share of the largest mass in a number; a component that high and with less is a speck
MIN_COMPONENT_STRENGTH = 0.5  # share of the digit's strength; a weaker component under uneven light is background


@dataclass(frozen=True)
class Components:
    """The digit's connected components; `mask` is None if every foreground pixel belongs to the digit."""

    boxes: NDArray[np.int32]  # [components,4]: left, top, width, height
    mask: GrayImage | None  # [height,width]: 255 on the components, else 0
    contrast: float  # gray levels of 255, of the strongest foreground

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of all components together, in pixels; right and bottom are exclusive."""
        lefts, tops, widths, heights = zip(*self.boxes.tolist(), strict=True)
        right, bottom = (max(map(add, *sides)) for sides in ((lefts, widths), (tops, heights)))
        return min(lefts), min(tops), right, bottom


def binarize(foreground: Foreground) -> tuple[GrayImage, GrayImage, float]:
    """Return the smoothed intensity, the foreground's mask, 255 or 0, and its contrast; raise ImageError 422."""
    smooth, noise, is_even = foreground.intensity, foreground.noise, foreground.is_evenly_lit
    if noise > SMOOTHING_NOISE:
        smooth, noise = cv2.GaussianBlur(smooth, (3, 3), 0), noise / 2
    contrast = cv2.minMaxLoc(smooth)[1]
    if contrast < max(MIN_CONTRAST, (MIN_CONTRAST_TO_NOISE if is_even else MIN_CONTRAST_TO_NOISE_UNEVEN) * noise):
        raise ImageError(422, "nothing is drawn on the image; expected one digit that stands out from its background")
    relative = FOREGROUND_THRESHOLD if is_even else FOREGROUND_THRESHOLD_UNEVEN
    binary = cv2.threshold(smooth, max(relative * contrast, (NOISE_FLOOR + 1) * noise), 255, cv2.THRESH_BINARY)[1]
    return smooth, binary, contrast


def find_components(foreground: Foreground) -> Components:
    """Find the digit's components, without specks and remains of shadows; raise ImageError 422 if there are none."""
    smooth, binary, contrast = binarize(foreground)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(binary)
    if count == 2 and foreground.is_evenly_lit:
        return Components(stats[1:, :4], None, contrast)
    selected = select_components(smooth, labels, stats, foreground.is_evenly_lit)
    return Components(stats[selected, :4], selected.astype(np.uint8)[labels] * np.uint8(255), contrast)


def select_components(
    intensity: GrayImage, labels: NDArray[np.int32], stats: NDArray[np.int32], is_even: bool, is_number: bool = False
) -> NDArray[np.bool_]:
    """Return which labels [components] belong to the digit or number; label 0, the background, never does."""
    squared = np.square(intensity.ravel(), dtype=np.float32)  # so that strength counts more than area
    mass = np.bincount(labels.ravel(), squared, len(stats)).astype(np.float64)
    mass[0] = 0
    if not is_even:
        mass[_find_outer_components(intensity.shape, stats, mass)] = 0
    selected = mass >= MIN_COMPONENT_MASS * mass.max()
    if not is_even:
        strength = np.sqrt(mass / stats[:, 4])  # root mean square of a component's intensity
        selected &= strength >= MIN_COMPONENT_STRENGTH * strength[mass.argmax()]
    if is_number:  # one of its digits may be much thinner or fainter than the others
        is_tall = stats[:, 3] >= MIN_DIGIT_HEIGHT * np.median(stats[selected, 3])
        selected |= is_tall & (mass >= MIN_DIGIT_MASS * mass.max())
    return np.asarray(selected)


def _find_outer_components(
    shape: tuple[int, ...], stats: NDArray[np.int32], mass: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which components are shadows or objects that reach into a photograph; the digit lies inside."""
    left, top, width, height = stats[:, :4].T
    sides = np.stack((left == 0, left + width == shape[1], top == 0, top + height == shape[0]))
    inner_mass = mass[~sides.any(0)].max(initial=0)
    if inner_mass >= MIN_INNER_MASS * mass.max():
        return np.asarray(sides.any(0))
    return np.asarray(sides.all(0) & bool(inner_mass))  # what touches all four sides is the surface around the page
