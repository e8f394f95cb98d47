"""Decode an image's bytes into upright, opaque grayscale; reject what is not an image, or is too large."""

import logging
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from handler.format_limits import find_format_problem

MAX_BYTES = 16 * 2**20  # maximum size of one image
MAX_PIXELS = 50_000_000  # width x height, checked before anything is decoded
MAX_READS = 100_000  # reads of one file while it is parsed; 16 MiB of PNG in chunks of 1 KiB take 46,000
MAX_UNCOUNTED_BYTES = 2**16  # a file of this size has too few parts to keep a parser busy
MIN_PAGE_FILL = 0.5  # share of the opaque pixels' bounding box that they fill; a page fills more, a stroke less
MIN_PAGE_CONTRAST = 64  # gray levels between an opaque page and what is drawn on it
WORKING_SIZE = 512  # pixels of the longer side; larger images are reduced to this or up to twice as much when decoded
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")

_FORMAT_LIST = ", ".join(FORMATS[:-1]) + " or " + FORMATS[-1]
_HEIF_BRANDS = dict.fromkeys((b"heic", b"heix", b"mif1", b"msf1"), "a HEIC image") | {b"avif": "an AVIF image"}
# Base64 of the signatures of PNG, JPEG, GIF, WebP and TIFF; those of BMP are too short to be recognized.
_BASE64_SIGNATURES = (b"iVBORw0KGgo", b"/9j/", b"R0lGODlh", b"R0lGODdh", b"UklGR", b"SUkqA", b"TU0AK")

GrayImage = NDArray[np.uint8]  # [height, width]

_STDERR_LOCK = threading.Lock()

# Pillow warns of many pixels and damaged blocks, which are checked here; its warnings would only fill the log.
warnings.filterwarnings("ignore", module="PIL")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class ImageInfo(NamedTuple):
    """The format of an image as it was sent, by Pillow's name, and its size in pixels."""

    format: str
    width: int
    height: int


class ImageError(Exception):
    """An image that cannot be predicted: `message` for the caller, `info` if it could be read, and HTTP `status`.

    400 if it is empty or not an image, 413 over MAX_BYTES, MAX_PIXELS or the CPU limit, 422 if nothing is drawn on it.
    """

    type = "InvalidImage"
    details: Mapping[str, Any] = MappingProxyType({})  # further fields of the response

    def __init__(self, status: int, message: str, info: ImageInfo | None = None) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.info = info

    def drop_traceback(self) -> Self:
        """Drop the traceback and causes, whose frames would keep pixels in memory until the batch is done."""
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)

    @property
    def reason(self) -> str:
        """The label under which metrics and the request log count the error."""
        return {413: "too_large", 422: "blank"}.get(self.status, "unreadable")


class _LimitedFile(BytesIO):
    """A file that can be read MAX_READS times, so that a million empty parts do not keep a parser busy."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise OSError(f"it consists of too many parts; at most {MAX_READS} reads are spent on one image")
        return super().read(size)


def decode_image(content: bytes) -> GrayImage:
    """Decode the file's first image, upright and opaque, as uint8 [height, width]; raise ImageError 400 or 413."""
    return decode_with_info(content)[0]


def decode_with_info(content: bytes) -> tuple[GrayImage, ImageInfo]:
    """Decode as `decode_image` does; return the format and size of the original as well."""
    if not content:
        raise ImageError(400, f"the image is 0 bytes; expected {_FORMAT_LIST}")
    if len(content) > MAX_BYTES:
        raise ImageError(413, f"the image is {len(content)} bytes; at most {MAX_BYTES} are accepted")
    if problem := find_format_problem(content, MAX_PIXELS):
        raise ImageError(400, f"the image cannot be read: {problem}")
    image = _open_image(content)
    info = ImageInfo(str(image.format), *image.size)  # before decoding, which may reduce a JPEG
    if image.width * image.height > MAX_PIXELS:
        raise _make_size_error(f"{image.width}x{image.height} pixels", info)
    try:
        return _convert_to_gray(_load_upright(image)), info
    except MemoryError:
        raise  # not the image's fault
    except Exception as error:  # decoders raise exceptions of any type for damaged files
        reason = str(error) or type(error).__name__
        raise ImageError(400, f"the {info.format} image cannot be read: {reason}", info) from error


def _open_image(content: bytes) -> Image.Image:
    file = BytesIO(content) if len(content) <= MAX_UNCOUNTED_BYTES else _LimitedFile(content)
    try:
        return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _make_size_error("far more pixels than allowed") from error
    except UnidentifiedImageError as error:
        found = identify_content(content) or f"{len(content)} bytes that are not an image"
        raise ImageError(400, f"{found}; expected {_FORMAT_LIST}") from error
    except Exception as error:  # parsers raise exceptions of any type for damaged headers
        reason = str(error) or type(error).__name__
        raise ImageError(400, f"the image cannot be read: {reason}; expected {_FORMAT_LIST}") from error


def identify_content(content: bytes) -> str | None:
    """Name what is often sent in place of an image, and say what to do; None for anything else."""
    head = content[:64].lstrip()
    if head[4:8] == b"ftyp" and (name := _HEIF_BRANDS.get(head[8:12])):
        return f"{name}; convert it to JPEG or PNG"
    if head.startswith(b"data:"):
        return "a data URL; send the image's bytes, or a batch request with the URL's base64 text as b64"
    if head.startswith(_BASE64_SIGNATURES):
        return "base64 text; send the image's bytes, or a batch request with the text as b64"
    return None


def _make_size_error(size: str, info: ImageInfo | None = None) -> ImageError:
    return ImageError(413, f"the image has {size}; at most {MAX_PIXELS} pixels are accepted", info)


def _load_upright(image: Image.Image) -> Image.Image:
    """Load the pixels, rotated by the EXIF orientation; a damaged EXIF block is ignored."""
    factor = max(1, max(image.size) // WORKING_SIZE)
    size = max(1, image.width // factor), max(1, image.height // factor)
    image.draft("L" if image.mode == "RGB" else None, size)  # decodes a JPEG reduced
    with _silence_stderr() if image.format == "TIFF" else nullcontext():
        image.load()
    if image.info or image.format == "TIFF":  # all others keep their EXIF block in `info`; looking for it costs time
        with suppress(Exception):  # Pillow's EXIF parser raises exceptions of any type
            ImageOps.exif_transpose(image, in_place=True)
    return image


@contextmanager
def _silence_stderr() -> Iterator[None]:
    """Discard what libtiff writes to standard error: a line for every bad line of a fax."""
    with _STDERR_LOCK, Path(os.devnull).open("wb") as null:
        saved = os.dup(2)
        os.dup2(null.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _convert_to_gray(image: Image.Image) -> GrayImage:
    if image.mode.startswith(("I", "F")):
        return _scale_to_8_bits(image)
    if image.has_transparency_data:
        return _flatten_alpha(image)
    if image.mode == "LAB":  # Pillow converts it only with color profiles; its first band is lightness
        return np.asarray(image.getchannel("L"))
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    image = _reduce_pixels(image)
    pixels = (image if image.mode == "L" else image.convert("L")).tobytes()
    return np.frombuffer(pixels, np.uint8).reshape(image.height, image.width)  # faster than asarray


def _reduce_pixels(image: Image.Image) -> Image.Image:
    factor = max(image.size) // WORKING_SIZE
    return image.reduce(factor) if factor > 1 else image


def _scale_to_8_bits(image: Image.Image) -> GrayImage:
    """Scale 16-bit gray by its full range; 32-bit and float images, whose range is unknown, by their own."""
    values = np.asarray(image).astype(np.float32)
    if image.mode.startswith("F"):
        np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else (float(values.min()), float(values.max()))
    values -= low
    values *= 255 / (max(high - low, 1e-9))
    return values.round(out=values).astype(np.uint8)


def _flatten_alpha(image: Image.Image) -> GrayImage:
    """Blend the image with a backdrop on which the foreground stays visible, see `_choose_backdrop`."""
    pixels = image if image.mode == "RGBA" else image.convert("RGBA")
    if max(pixels.size) >= 2 * WORKING_SIZE:  # premultiplied, so that transparent pixels add no color
        pixels = _reduce_pixels(pixels.convert("RGBa")).convert("RGBA")
    gray = np.asarray(pixels.convert("RGB").convert("L")).astype(np.float32)
    alpha = np.asarray(pixels.getchannel("A")).astype(np.float32)
    alpha /= 255
    return (gray * alpha + _choose_backdrop(gray, alpha) * (1 - alpha)).round().astype(np.uint8)


def _choose_backdrop(gray: NDArray[np.float32], alpha: NDArray[np.float32]) -> float:
    """Return white for a dark foreground, black for a bright one, or the level of an opaque page that is drawn on."""
    opaque = alpha >= 0.5
    page = float(np.median(gray[opaque])) if opaque.any() else 0.0
    width, height = cv2.boundingRect(opaque.astype(np.uint8))[2:]
    foreground = opaque & (np.abs(gray - page) > MIN_PAGE_CONTRAST)
    if foreground.any() and np.count_nonzero(opaque) > MIN_PAGE_FILL * width * height:
        return page
    mean = float((gray * alpha).sum()) / max(float(alpha.sum()), 1e-9)
    return 255.0 if mean < 128 else 0.0
