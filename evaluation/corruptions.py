"""Changes of real digit pictures: light on dark uint8 [N,28,28] in, one uint8 picture each out."""

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
Change = Callable[[Picture, np.random.Generator], list[Picture]]

FRAME_SIDES: Final = (56, 140)  # pixels, both included: twice to five times the digit's own 28
ENLARGED: Final = 56  # pixels a side, where a stroke of 2 or 3 pixels is wide enough to lose one on each side
CROSS: Final = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
MOST_TURN: Final = 20.0  # degrees
BLUR: Final = 1.0  # pixels, the Gaussian's sigma
NOISE: Final = 40.0  # grey levels of 255, the Gaussian's sigma


def inverted(greys: Picture, _random: np.random.Generator) -> list[Picture]:
    """Dark on light."""
    return list(255 - greys)


def off_centre(greys: Picture, random: np.random.Generator) -> list[Picture]:
    """The same pixels somewhere in a black square of FRAME_SIDES."""
    return [_pasted(grey, random) for grey in greys]


def _pasted(grey: Picture, random: np.random.Generator) -> Picture:
    height, width = grey.shape
    side = int(random.integers(*FRAME_SIDES, endpoint=True))
    top, left = random.integers(0, (side - height, side - width), endpoint=True)
    square = np.zeros((side, side), np.uint8)
    square[top : top + height, left : left + width] = grey
    return square


def thin(greys: Picture, _random: np.random.Generator) -> list[Picture]:
    """Enlarged to [56,56], the stroke a pixel thinner on each side."""
    return [np.asarray(cv2.erode(_enlarged(grey), CROSS), np.uint8) for grey in greys]


def thick(greys: Picture, _random: np.random.Generator) -> list[Picture]:
    """Enlarged to [56,56], the stroke a pixel thicker on each side."""
    return [np.asarray(cv2.dilate(_enlarged(grey), CROSS), np.uint8) for grey in greys]


def _enlarged(grey: Picture) -> Picture:
    return np.asarray(cv2.resize(grey, (ENLARGED, ENLARGED), interpolation=cv2.INTER_CUBIC), np.uint8)


def rotated(greys: Picture, random: np.random.Generator) -> list[Picture]:
    """Turned by up to MOST_TURN either way."""
    angles = random.uniform(-MOST_TURN, MOST_TURN, len(greys))
    return [
        np.asarray(Image.fromarray(grey).rotate(float(angle), Image.Resampling.BICUBIC))
        for grey, angle in zip(greys, angles, strict=True)
    ]


def blurred(greys: Picture, _random: np.random.Generator) -> list[Picture]:
    """Under a Gaussian of BLUR."""
    return [np.asarray(cv2.GaussianBlur(grey, (0, 0), BLUR), np.uint8) for grey in greys]


def noisy(greys: Picture, random: np.random.Generator) -> list[Picture]:
    """Under Gaussian noise of NOISE, clipped to 0 ... 255."""
    return [np.clip(np.rint(grey + random.normal(0, NOISE, grey.shape)), 0, 255).astype(np.uint8) for grey in greys]


CHANGES: Final[dict[str, Change]] = {
    "inverted": inverted,
    "off-centre": off_centre,
    "thin": thin,
    "thick": thick,
    "rotated": rotated,
    "blurred": blurred,
    "noisy": noisy,
}
