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

from handler.decoding import Grey, Source, decoded
from handler.decoding import ImageError as ImageError  # what `frame` raises
from handler.marks import Marks, cut_out, find_marks, place, upright
from handler.paper import background, reduced, separate, sheet
from handler.plain_png import plain_png
from handler.protocol import WARNINGS

CHANNELS = 3  # equal ones: the model was born for RGB pictures
FAINT = 64  # of the 255 from paper to black or white, the strongest ink; less is faint
LOW_RESOLUTION = 12  # pixels of the ink's longer side; less is too few to be sure


class Framed(NamedTuple):
    """A frame uint8 [64,64] and what is worth knowing about the picture behind it, in the contract's words."""

    frame: Grey
    warnings: tuple[str, ...]


def frame(picture: bytes) -> Grey:
    """The picture in any format of FORMATS as uint8 [64,64], ink bright on 0, in MNIST's geometry.

    Raises ImageError: 400 empty or not a picture, 413 over MAX_BYTES or MAX_PIXELS, 422 nothing drawn.
    """
    return examine(picture).frame


def examine(picture: bytes) -> Framed:
    """The picture's frame with its warnings; raises as `frame` does."""
    return examine_grey(read_picture(picture)[0])


def read_picture(picture: bytes) -> tuple[Grey, Source]:
    """The picture as upright, opaque grey uint8 of at most LARGE pixels a side, and what it was sent as.

    Raises as `frame` does, but for 422.
    """
    return read_plain_png(picture) or read_any(picture)


def read_plain_png(picture: bytes) -> tuple[Grey, Source] | None:
    """The same of a plain PNG alone, by the quick way; None for any other file."""
    plain = plain_png(picture)
    return None if plain is None else (plain, Source("PNG", *plain.shape[::-1]))


def read_any(picture: bytes) -> tuple[Grey, Source]:
    """The same by Pillow, which reads plain PNGs too."""
    grey, source = decoded(picture)
    return reduced(grey), source


def frame_grey(grey: Grey) -> Grey:
    """The grey picture [height, width] as uint8 [64,64], ink bright on 0; ImageError 422 if it is blank."""
    return examine_grey(grey).frame


def examine_grey(grey: Grey) -> Framed:
    """The grey picture's frame with its warnings; ImageError 422 if it is blank."""
    return examine_paper(sheet(reduced(grey)))


def examine_paper(grey: Grey) -> Framed:
    """The same of a picture of LARGE pixels a side at most that shows nothing but paper and what is drawn on it."""
    ink = separate(grey, background(grey))
    marks = find_marks(ink)
    return Framed(place(upright(cut_out(ink, marks))), _warnings(marks, ink.inverted, grey.shape))


def to_input(frames: Sequence[Grey] | Grey | torch.Tensor) -> torch.Tensor:
    """Frames uint8 [N,64,64] as the model's input, float32 [N,3,64,64] in 0..1 with three equal channels."""
    grey = frames if isinstance(frames, torch.Tensor) else torch.from_numpy(np.asarray(frames))
    return grey.unsqueeze(1).float().div(255).expand(-1, CHANNELS, -1, -1)


def _warnings(marks: Marks, inverted: bool, shape: tuple[int, ...]) -> tuple[str, ...]:
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
