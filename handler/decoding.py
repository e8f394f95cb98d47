"""From the bytes of a picture to upright, opaque grey; what is no picture, or too large a one, is refused."""

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from handler.format_limits import find_format_problem

MAX_BYTES = 16 * 2**20  # body of one picture
MAX_PIXELS = 50_000_000  # width x height, checked before anything is decoded
MAX_READS = 100_000  # of one file while it is parsed; 16 MiB of PNG in parts of 1 KiB take 46,000
COUNTED = 2**16  # bytes; a file of no more has not parts enough to keep a parser busy
CARD = 0.5  # of the box around what is opaque; a mask that fills more of it is no pen's stroke
CARD_INK = 64  # grey levels between a card and what is drawn on it
WORKING_SIDE = 512  # pixels of the longer side; pictures of twice that are reduced to no less while they are read
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")

GrayImage = NDArray[np.uint8]  # [height, width]

_STDERR_LOCK = threading.Lock()

# What Pillow warns of, many pixels or a damaged block, is judged here; its warnings would only fill the log.
warnings.filterwarnings("ignore", module="PIL")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class Source(NamedTuple):
    """What a picture was sent as: its format in Pillow's words, its sides in pixels."""

    format: str
    width: int
    height: int


class ImageError(Exception):
    """A picture that cannot be answered: `status` is the HTTP status, `message` is for its sender.

    `source` is what it was sent as, if that much was read.
    """

    type = "InvalidImage"

    def __init__(self, status: int, message: str, source: Source | None = None) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.source = source

    def without_frames(self) -> Self:
        """Drop traceback and causes, whose frames would keep pixels in memory until the batch is done."""
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)

    @property
    def reason(self) -> str:
        """What it is counted as."""
        return {413: "too_large", 422: "blank"}.get(self.status, "unreadable")


class _Counted(BytesIO):
    """A file that a million empty parts do not keep its parser busy with."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise OSError(f"it consists of too many parts; at most {MAX_READS} reads are spent on one picture")
        return super().read(size)


def decode_image(picture: bytes) -> GrayImage:
    """The picture's first image, upright and opaque, as grey uint8 [height, width]; see `frame` for errors."""
    return decode_with_source(picture)[0]


def decode_with_source(picture: bytes) -> tuple[GrayImage, Source]:
    """The same, and what it was sent as."""
    if not picture:
        raise ImageError(400, f"the picture is 0 bytes; expected {_known()}")
    if len(picture) > MAX_BYTES:
        raise ImageError(413, f"the picture is {len(picture)} bytes; at most {MAX_BYTES} are accepted")
    if reason := find_format_problem(picture, MAX_PIXELS):
        raise ImageError(400, f"the picture cannot be read: {reason}")
    image = _open(picture)
    source = Source(str(image.format), *image.size)  # now: a JPEG may be decoded smaller
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(f"{image.width}x{image.height} pixels", source)
    try:
        return _to_gray(_upright(image)), source
    except MemoryError:
        raise  # no fault of the picture's
    except Exception as error:  # decoders of damaged files raise whatever comes to them
        raise ImageError(400, f"the {source.format} picture cannot be read: {_reason(error)}", source) from error


def _open(picture: bytes) -> Image.Image:
    file = BytesIO(picture) if len(picture) <= COUNTED else _Counted(picture)
    try:
        return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large("far more pixels than that") from error
    except UnidentifiedImageError as error:
        raise ImageError(400, f"{len(picture)} bytes that are no picture; expected {_known()}") from error
    except Exception as error:  # a damaged header raises whatever comes to the format's parser
        raise ImageError(400, f"the picture cannot be read: {_reason(error)}; expected {_known()}") from error


def _known() -> str:
    return ", ".join(FORMATS[:-1]) + " or " + FORMATS[-1]


def _too_large(size: str, source: Source | None = None) -> ImageError:
    return ImageError(413, f"the picture has {size}; at most {MAX_PIXELS} pixels are accepted", source)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; a damaged EXIF block is no reason to refuse the picture."""
    image.draft("L" if image.mode == "RGB" else None, _reduced_size(image.size))  # a JPEG is decoded no larger
    with _without_stderr() if image.format == "TIFF" else nullcontext():
        image.load()
    if image.info or image.format == "TIFF":  # all others keep their EXIF block in `info`; looking for it costs time
        with suppress(Exception):  # parser of a foreign block inside an otherwise good picture
            ImageOps.exif_transpose(image, in_place=True)
    return image


@contextmanager
def _without_stderr() -> Iterator[None]:
    """libtiff writes a line there for each bad one of a fax, and cannot be told not to."""
    with _STDERR_LOCK, Path(os.devnull).open("wb") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _to_gray(image: Image.Image) -> GrayImage:
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image)
    if image.has_transparency_data:
        return _opaque(image)
    if image.mode == "LAB":  # Pillow converts it only with colour profiles; its first band is lightness
        return np.asarray(image.getchannel("L"))
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    image = _reduced(image)
    pixels = (image if image.mode == "L" else image.convert("L")).tobytes()
    return np.frombuffer(pixels, np.uint8).reshape(image.height, image.width)  # sooner there than by asarray


def _reduced(image: Image.Image) -> Image.Image:
    factor = max(image.size) // WORKING_SIDE
    return image.reduce(factor) if factor > 1 else image


def _reduced_size(size: tuple[int, int]) -> tuple[int, int]:
    factor = max(1, max(size) // WORKING_SIDE)
    return max(1, size[0] // factor), max(1, size[1] // factor)


def _eight_bits(image: Image.Image) -> GrayImage:
    """16-bit grey by its full range; 32-bit and float pictures, whose range nobody states, by their own."""
    values = np.asarray(image).astype(np.float32)
    if image.mode.startswith("F"):
        np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else (float(values.min()), float(values.max()))
    values -= low
    values *= 255 / (max(high - low, 1e-9))
    return values.round(out=values).astype(np.uint8)


def _opaque(image: Image.Image) -> GrayImage:
    """What is transparent filled so that the ink stays visible, see `_behind`."""
    pixels = image if image.mode == "RGBA" else image.convert("RGBA")
    if max(pixels.size) >= 2 * WORKING_SIDE:  # premultiplied, so that what is transparent adds no colour
        pixels = _reduced(pixels.convert("RGBa")).convert("RGBA")
    grey = np.asarray(pixels.convert("RGB").convert("L")).astype(np.float32)
    alpha = np.asarray(pixels.getchannel("A")).astype(np.float32)
    alpha /= 255
    return (grey * alpha + _behind(grey, alpha) * (1 - alpha)).round().astype(np.uint8)


def _behind(grey: NDArray[np.float32], alpha: NDArray[np.float32]) -> float:
    """White behind dark ink, black behind bright; behind a card that is drawn on, more of the card."""
    opaque = alpha >= 0.5
    card = float(np.median(grey[opaque])) if opaque.any() else 0.0
    width, height = cv2.boundingRect(opaque.astype(np.uint8))[2:]
    drawn_on = opaque & (np.abs(grey - card) > CARD_INK)
    if drawn_on.any() and np.count_nonzero(opaque) > CARD * width * height:
        return card
    shown = float((grey * alpha).sum()) / max(float(alpha.sum()), 1e-9)
    return 255.0 if shown < 128 else 0.0
