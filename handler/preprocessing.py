"""From the bytes of a picture to the model's input: the only definition there is, for training and serving.

bytes -> `plain_png`, or `decoded` and `reduced` -> grey (`read_picture`) -> `sheet` -> `background`
-> `separate` -> `find_marks` -> `cut_out` -> `upright` -> `place` -> 64x64 uint8, ink bright on 0, in MNIST's geometry
(`frame`) -> float32 [N,3,64,64] (`to_input`)
"""

from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from handler.background import crop_page, estimate_background, extract_foreground, reduce_image
from handler.decoding import GrayImage, Source, decode_with_source
from handler.decoding import ImageError as ImageError  # what `frame` raises
from handler.fast_png import decode_plain_png
from handler.marks import Components, crop_components, deslant, find_components, place_in_frame
from handler.protocol import WARNINGS

CHANNELS = 3  # equal ones: the model was born for RGB pictures
FAINT = 64  # of the 255 from paper to black or white, the strongest ink; less is faint
LOW_RESOLUTION = 12  # pixels of the ink's longer side; less is too few to be sure


class FramedImage(NamedTuple):
    """A frame uint8 [64,64] and what is worth knowing about the picture behind it, in the contract's words."""

    frame: GrayImage
    warnings: tuple[str, ...]


def frame(picture: bytes) -> GrayImage:
    """The picture in any format of FORMATS as uint8 [64,64], ink bright on 0, in MNIST's geometry.

    Raises ImageError: 400 empty or not a picture, 413 over MAX_BYTES or MAX_PIXELS, 422 nothing drawn.
    """
    return frame_with_warnings(picture).frame


def frame_with_warnings(picture: bytes) -> FramedImage:
    """The picture's frame with its warnings; raises as `frame` does."""
    return frame_gray_with_warnings(load_gray(picture)[0])


def load_gray(picture: bytes) -> tuple[GrayImage, Source]:
    """The picture as upright, opaque grey uint8 of at most LARGE pixels a side, and what it was sent as.

    Raises as `frame` does, but for 422.
    """
    return load_plain_png(picture) or load_with_pillow(picture)


def load_plain_png(picture: bytes) -> tuple[GrayImage, Source] | None:
    """The same of a plain PNG alone, by the quick way; None for any other file."""
    plain = decode_plain_png(picture)
    return None if plain is None else (plain, Source("PNG", *plain.shape[::-1]))


def load_with_pillow(picture: bytes) -> tuple[GrayImage, Source]:
    """The same by Pillow, which reads plain PNGs too."""
    grey, source = decode_with_source(picture)
    return reduce_image(grey), source


def frame_gray(grey: GrayImage) -> GrayImage:
    """The grey picture [height, width] as uint8 [64,64], ink bright on 0; ImageError 422 if it is blank."""
    return frame_gray_with_warnings(grey).frame


def frame_gray_with_warnings(grey: GrayImage) -> FramedImage:
    """The grey picture's frame with its warnings; ImageError 422 if it is blank."""
    return frame_page(crop_page(reduce_image(grey)))


def frame_page(grey: GrayImage) -> FramedImage:
    """The same of a picture of LARGE pixels a side at most that shows nothing but paper and what is drawn on it."""
    ink = extract_foreground(grey, estimate_background(grey))
    marks = find_components(ink)
    return FramedImage(place_in_frame(deslant(crop_components(ink, marks))), _warnings(marks, ink.inverted, grey.shape))


def to_input(frames: Sequence[GrayImage] | GrayImage | torch.Tensor) -> torch.Tensor:
    """Frames uint8 [N,64,64] as the model's input, float32 [N,3,64,64] in 0..1 with three equal channels."""
    grey = frames if isinstance(frames, torch.Tensor) else torch.from_numpy(np.asarray(frames))
    return grey.unsqueeze(1).float().div(255).expand(-1, CHANNELS, -1, -1)


def _warnings(marks: Components, inverted: bool, shape: tuple[int, ...]) -> tuple[str, ...]:
    left, top, right, bottom = marks.box
    applies = (
        inverted,
        len(marks.boxes) > 1 and _several(marks.boxes),
        marks.contrast < FAINT,
        left == 0 or top == 0 or right == shape[1] or bottom == shape[0],
        max(right - left, bottom - top) < LOW_RESOLUTION,
    )
    return tuple(compress(WARNINGS, applies))


def _several(boxes: NDArray[np.int32]) -> bool:
    """Whether a second mark is at least half as high as the highest: another digit, not a digit's bar or dot."""
    heights = np.sort(boxes[:, 3])
    return bool(heights[-2] * 2 >= heights[-1])
