"""Preprocess an image's bytes into a frame and the model's input; training and serving share this definition.

A frame is the image that the model classifies: uint8 [64,64], the digit bright on 0, scaled and centered as in MNIST.
bytes -> `decode_plain_png`, or `decode_image` and `reduce_image` -> grayscale (`load_gray`) -> `crop_bars`
-> `crop_page` -> `estimate_background` -> `extract_foreground` -> `remove_lines` -> `find_components`
-> `crop_components` -> `deslant` -> `place_in_frame` -> frame (`frame`) -> float32 [N,3,64,64] (`to_input`)
"""

from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple

import numpy as np
import torch

from handler.background import Foreground, crop_bars, crop_page, estimate_background, extract_foreground, reduce_image
from handler.decoding import GrayImage, ImageInfo, decode_with_info
from handler.decoding import ImageError as ImageError  # what `frame` raises
from handler.fast_png import decode_plain_png
from handler.geometry import crop_components, deslant, place_in_frame
from handler.lines import remove_lines
from handler.protocol import WARNINGS
from handler.segmentation import Components, find_components

CHANNELS = 3  # all equal, as the architecture takes RGB images
FAINT_CONTRAST = 64  # gray levels of 255; a digit of less contrast is faint
LOW_RESOLUTION = 12  # pixels; a digit whose longer side in the image is shorter has a low resolution


class FramedImage(NamedTuple):
    """A frame uint8 [64,64] with the warnings about its image, by the names of the public API."""

    frame: GrayImage
    warnings: tuple[str, ...]


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
    return frame_page(crop_page(crop_bars(reduce_image(gray))))


def frame_page(gray: GrayImage) -> FramedImage:
    """Frame a grayscale image of at most WORKING_SIZE pixels a side that shows a page and nothing around it."""
    foreground = extract_foreground(gray, estimate_background(gray))
    cleared = remove_lines(foreground)
    foreground = cleared or foreground
    components = find_components(foreground)
    framed = place_in_frame(deslant(crop_components(foreground, components)))
    return FramedImage(framed, _collect_warnings(components, foreground, cleared is not None))


def to_input(frames: Sequence[GrayImage] | GrayImage | torch.Tensor) -> torch.Tensor:
    """Convert frames uint8 [N,64,64] to the model's input: float32 [N,3,64,64] in 0..1, all three channels equal."""
    gray = frames if isinstance(frames, torch.Tensor) else torch.from_numpy(np.asarray(frames))
    return gray.unsqueeze(1).float().div(255).expand(-1, CHANNELS, -1, -1)


def _collect_warnings(components: Components, foreground: Foreground, lines_removed: bool) -> tuple[str, ...]:
    left, top, right, bottom = components.box
    height, width = foreground.intensity.shape
    heights = np.sort(components.boxes[:, 3])
    applies = (
        foreground.inverted,
        len(heights) > 1 and heights[-2] * 2 >= heights[-1],  # the second is too large for a digit's bar or dot
        components.contrast < FAINT_CONTRAST,
        left == 0 or top == 0 or right == width or bottom == height,
        max(right - left, bottom - top) < LOW_RESOLUTION,
        lines_removed,
    )
    return tuple(compress(WARNINGS, applies))
