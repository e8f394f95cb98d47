"""Preprocess an image's bytes into a frame and the model's input; training and serving share this definition.

A frame is the image that the model classifies: uint8 [64,64], the digit bright on 0, scaled and centered as in MNIST.
bytes -> `decode_plain_png`, or `decode_image` and `reduce_image` -> grayscale (`load_gray`) -> `crop_to_page`
-> `estimate_background` -> `extract_foreground` -> `remove_lines` -> `find_components`
-> `crop_components` -> `deslant` -> `place_in_frame` -> frame (`frame`) -> float32 [N,3,64,64] (`to_input`)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handler.background import Foreground, crop_to_page, estimate_background, extract_foreground, reduce_image
from handler.decoding import GrayImage, ImageInfo, decode_with_info
from handler.decoding import ImageError as ImageError  # what `frame` raises
from handler.fast_png import decode_plain_png
from handler.geometry import crop_components, deslant, place_in_frame
from handler.lines import remove_lines
from handler.number_segmentation import Line, SeveralLinesError, segment_line
from handler.protocol import WARNINGS
from handler.segmentation import Components, find_components

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS = 3  # all equal, as the architecture takes RGB images
FAINT_CONTRAST = 64  # gray levels of 255; a digit of less contrast is faint
LOW_RESOLUTION = 12  # pixels; a digit whose longer side in the image is shorter has a low resolution


class FramedImage(NamedTuple):
    """A frame uint8 [64,64] with the warnings about its image, by the names of the public API."""

    frame: GrayImage
    warnings: tuple[str, ...]


class NumberImage(NamedTuple):
    """The line of digits on an image, the warnings about it, and where its pixels lie in the image as sent."""

    line: Line
    warnings: tuple[str, ...]
    position: "Position"


class Position(NamedTuple):
    """The position of a page in an image: left and top in pixels of the reduced image, its pixels per reduced pixel."""

    left: int
    top: int
    across: float
    down: float

    def to_image_box(self, box: Sequence[int]) -> list[int]:
        """Convert left, top, right, bottom on the page to left, top, width, height in pixels of the image as sent."""
        left, right = (round((x + self.left) * self.across) for x in box[::2])
        top, bottom = (round((y + self.top) * self.down) for y in box[1::2])
        return [left, top, right - left, bottom - top]


def frame(image: bytes) -> GrayImage:
    """Frame an image of any of FORMATS: uint8 [64,64], the digit bright on 0; raise ImageError 400, 413 or 422."""
    return frame_with_warnings(image).frame


def frame_with_warnings(image: bytes) -> FramedImage:
    """Frame an image and collect its warnings; raise ImageError 400, 413 or 422."""
    return frame_gray_with_warnings(load_gray(image)[0])


def load_gray(image: bytes) -> tuple[GrayImage, ImageInfo]:
    """Load an image as upright, opaque gray of at most WORKING_SIZE pixels a side; raise ImageError 400 or 413."""
    return load_plain_png(image) or load_with_pillow(image)


def load_plain_png(image: bytes) -> tuple[GrayImage, ImageInfo] | None:
    """Load a plain PNG as `load_gray` does, but faster; return None for any other file."""
    plain = decode_plain_png(image)
    return None if plain is None else (plain, ImageInfo("PNG", *plain.shape[::-1]))


def load_with_pillow(image: bytes) -> tuple[GrayImage, ImageInfo]:
    """Load any image, plain PNGs too, as `load_gray` does."""
    gray, info = decode_with_info(image)
    return reduce_image(gray), info


def frame_gray(gray: GrayImage) -> GrayImage:
    """Frame a grayscale image [height,width] as `frame` does; raise ImageError 422 if it is blank."""
    return frame_gray_with_warnings(gray).frame


def frame_gray_with_warnings(gray: GrayImage) -> FramedImage:
    """Frame a grayscale image [height,width] and collect its warnings; raise ImageError 422 if it is blank."""
    return frame_page(crop_to_page(reduce_image(gray)).gray)


def frame_page(gray: GrayImage) -> FramedImage:
    """Frame a grayscale image of at most WORKING_SIZE pixels a side that shows a page and nothing around it."""
    foreground = extract_foreground(gray, estimate_background(gray))
    cleared = remove_lines(foreground)
    foreground = cleared or foreground
    components = find_components(foreground)
    framed = place_in_frame(deslant(crop_components(foreground, components)))
    left, top, right, bottom = components.box
    warnings = _collect_warnings(
        foreground,
        components.box,
        max(right - left, bottom - top),
        components.contrast,
        several_marks=_has_several_marks(components),
        lines_removed=cleared is not None,
    )
    return FramedImage(framed, warnings)


def segment_number(gray: GrayImage, info: ImageInfo) -> NumberImage:
    """Segment the image [height,width] of a number; raise ImageError 422 if it is blank, SeveralLinesError."""
    reduced = reduce_image(gray)
    page = crop_to_page(reduced)
    foreground = extract_foreground(page.gray, estimate_background(page.gray))
    cleared = remove_lines(foreground, is_number=True)
    height, width = reduced.shape
    is_rotated = (width > height) != (info.width > info.height)  # by its EXIF orientation
    sent_width, sent_height = (info.height, info.width) if is_rotated else (info.width, info.height)
    position = Position(page.left, page.top, sent_width / width, sent_height / height)
    try:
        line = segment_line(cleared or foreground)
    except SeveralLinesError as error:
        error.details = {"lines": [position.to_image_box(box) for box in error.boxes]}
        raise
    box = line.find_box(0, len(line.pieces))
    warnings = _collect_warnings(foreground, box, line.height, line.contrast, lines_removed=cleared is not None)
    return NumberImage(line, warnings, position)


def to_gray_input(frames: Sequence[GrayImage] | GrayImage) -> NDArray[np.float32]:
    """Convert frames uint8 [N,64,64] to one of the three channels of `to_input`: float32 [N,1,64,64]."""
    return np.divide(np.asarray(frames)[:, np.newaxis], np.float32(255), dtype=np.float32)


def to_input(frames: "Sequence[GrayImage] | GrayImage | Tensor") -> "Tensor":
    """Convert frames uint8 [N,64,64] to the model's input: float32 [N,3,64,64] in 0..1, all three channels equal."""
    import torch  # here: a reader of ONNX models does without

    gray = frames if isinstance(frames, torch.Tensor) else torch.from_numpy(np.asarray(frames))
    return gray.unsqueeze(1).float().div(255).expand(-1, CHANNELS, -1, -1)


def _has_several_marks(components: Components) -> bool:
    """Return whether the second highest component is too large for a digit's bar or dot."""
    heights = np.sort(components.boxes[:, 3])
    return len(heights) > 1 and bool(heights[-2] * 2 >= heights[-1])


def _collect_warnings(
    foreground: Foreground, box: tuple[int, int, int, int], size: float, contrast: float, **others: bool
) -> tuple[str, ...]:
    """Return the names of the warnings that apply to what lies in the box and has digits of this size in pixels."""
    left, top, right, bottom = box
    height, width = foreground.intensity.shape
    applies = others | {
        "inverted": foreground.inverted,
        "faint": contrast < FAINT_CONTRAST,
        "touches_border": left == 0 or top == 0 or right == width or bottom == height,
        "low_resolution": size < LOW_RESOLUTION,
    }
    return tuple(name for name in WARNINGS if applies.get(name))
