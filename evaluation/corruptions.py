"""Corruptions of digit images: light on dark uint8 [N,28,28] in, N grayscale uint8 images out."""

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Images = NDArray[np.uint8]
Corruption = Callable[[Images, np.random.Generator], list[Images]]

CANVAS_SIDES: Final = (56, 140)  # pixels, both included: two to five times the digit's own 28
ENLARGED_SIDE: Final = 56  # pixels; strokes are then 4 to 6 wide and survive the loss of one on both sides
CROSS_KERNEL: Final = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
MAX_ROTATION: Final = 20.0  # degrees
BLUR_SIGMA: Final = 1.0  # pixels
NOISE_SIGMA: Final = 40.0  # gray levels of 255


def invert(images: Images, _random: np.random.Generator) -> list[Images]:
    """Make the digits dark on light."""
    return list(255 - images)


def move_off_center(images: Images, random: np.random.Generator) -> list[Images]:
    """Paste the unchanged pixels at random places of black squares with a side from CANVAS_SIDES."""
    return [_paste_on_canvas(image, random) for image in images]


def _paste_on_canvas(image: Images, random: np.random.Generator) -> Images:
    height, width = image.shape
    side = int(random.integers(*CANVAS_SIDES, endpoint=True))
    top, left = random.integers(0, (side - height, side - width), endpoint=True)
    canvas = np.zeros((side, side), np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas


def thin_strokes(images: Images, _random: np.random.Generator) -> list[Images]:
    """Enlarge to [56,56] and erode the strokes by a pixel on both sides."""
    return [np.asarray(cv2.erode(_enlarge(image), CROSS_KERNEL), np.uint8) for image in images]


def thicken_strokes(images: Images, _random: np.random.Generator) -> list[Images]:
    """Enlarge to [56,56] and dilate the strokes by a pixel on both sides."""
    return [np.asarray(cv2.dilate(_enlarge(image), CROSS_KERNEL), np.uint8) for image in images]


def _enlarge(image: Images) -> Images:
    return np.asarray(cv2.resize(image, (ENLARGED_SIDE, ENLARGED_SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)


def rotate(images: Images, random: np.random.Generator) -> list[Images]:
    """Rotate by up to MAX_ROTATION either way."""
    angles = random.uniform(-MAX_ROTATION, MAX_ROTATION, len(images))
    pairs = zip(map(Image.fromarray, images), angles.tolist(), strict=True)
    return [np.asarray(image.rotate(angle, Image.Resampling.BICUBIC)) for image, angle in pairs]


def blur(images: Images, _random: np.random.Generator) -> list[Images]:
    """Apply a Gaussian blur of BLUR_SIGMA."""
    return [np.asarray(cv2.GaussianBlur(image, (0, 0), BLUR_SIGMA), np.uint8) for image in images]


def add_noise(images: Images, random: np.random.Generator) -> list[Images]:
    """Add Gaussian noise of NOISE_SIGMA and clip to 0..255."""
    noisy = (image + random.normal(0, NOISE_SIGMA, image.shape) for image in images)
    return [np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in noisy]


CORRUPTIONS: Final[dict[str, Corruption]] = {
    "inverted": invert,
    "off-centre": move_off_center,
    "thin": thin_strokes,
    "thick": thicken_strokes,
    "rotated": rotate,
    "blurred": blur,
    "noisy": add_noise,
}
