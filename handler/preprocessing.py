"""From the bytes of a picture to the model's input: the only definition there is, for training and serving.

bytes -> decode -> grey -> 64x64 uint8, ink bright on 0 (`frame`) -> float32 [N,3,64,64] (`to_input`)
"""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

SIZE = 64  # pixels, side of the model's input
CHANNELS = 3  # equal ones: the model was born for RGB pictures
MAX_BYTES = 16 * 2**20  # body of one picture
MAX_PIXELS = 50_000_000  # width x height, checked before anything is decoded
LARGE = 16 * SIZE  # pixels of a side; larger pictures are averaged down to about this first
MIN_CONTRAST = 16  # grey levels of 255 between paper and strongest ink; less is a blank sheet
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")

Grey = NDArray[np.uint8]  # [height, width]

# What Pillow warns of, many pixels or a damaged block, is judged here; its warnings would only fill the log.
warnings.filterwarnings("ignore", module="PIL")


class ImageError(Exception):
    """A picture that cannot be answered: `status` is the HTTP status, `message` is for its sender."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


def frame(picture: bytes) -> Grey:
    """The picture in any format of FORMATS as uint8 [64,64], ink bright on 0.

    Raises ImageError: 400 empty or not a picture, 413 over MAX_BYTES or MAX_PIXELS, 422 nothing drawn.
    """
    return frame_grey(decode(picture))


def frame_grey(grey: Grey) -> Grey:
    """The grey picture [height, width] as uint8 [64,64], ink bright on 0; ImageError 422 if it is blank."""
    # reducing_gap: a large picture is averaged down first, which keeps a strip of 50 million pixels fast as well.
    image = Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    small = np.asarray(image)
    ink = ink_on_black(small)
    if int(ink.max()) < MIN_CONTRAST:
        raise ImageError(422, "nothing is drawn on the picture; expected one digit that stands out from its background")
    return ink


def to_input(frames: Sequence[Grey] | Grey | torch.Tensor) -> torch.Tensor:
    """Frames uint8 [N,64,64] as the model's input, float32 [N,3,64,64] in 0..1 with three equal channels."""
    grey = frames if isinstance(frames, torch.Tensor) else torch.from_numpy(np.asarray(frames))
    return grey.unsqueeze(1).float().div(255).expand(-1, CHANNELS, -1, -1)


def decode(picture: bytes) -> Grey:
    """The picture's first image, upright and opaque, as grey uint8 [height, width]; see `frame` for errors."""
    if not picture:
        raise ImageError(400, f"the picture is 0 bytes; expected {_known()}")
    if len(picture) > MAX_BYTES:
        raise ImageError(413, f"the picture is {len(picture)} bytes; at most {MAX_BYTES} are accepted")
    image = _open(picture)
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(f"{image.width}x{image.height} pixels")
    try:
        return _grey(_upright(image))
    except Exception as error:  # decoders of damaged files raise whatever comes to them
        raise ImageError(400, f"the {image.format} picture cannot be read: {_reason(error)}") from error


def ink_on_black(grey: Grey) -> Grey:
    """The picture with its background at 0 and ink bright; the background is the median of the border."""
    border = np.concatenate((grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]))
    background = int(np.median(border))
    ink = grey.astype(np.int16) - background
    return (ink if background < 128 else -ink).clip(0, 255).astype(np.uint8)


def _open(picture: bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(picture), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large("far more pixels than that") from error
    except UnidentifiedImageError as error:
        raise ImageError(400, f"{len(picture)} bytes that are no picture; expected {_known()}") from error
    except Exception as error:  # a damaged header raises whatever comes to the format's parser
        raise ImageError(400, f"the picture cannot be read: {_reason(error)}; expected {_known()}") from error


def _known() -> str:
    return ", ".join(FORMATS[:-1]) + " or " + FORMATS[-1]


def _too_large(size: str) -> ImageError:
    return ImageError(413, f"the picture has {size}; at most {MAX_PIXELS} pixels are accepted")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; a damaged EXIF block is no reason to refuse the picture."""
    image.load()
    with suppress(Exception):  # parser of a foreign block inside an otherwise good picture
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _grey(image: Image.Image) -> Grey:
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image)
    if image.has_transparency_data:
        return _opaque(image)
    if image.mode == "LAB":  # Pillow converts it only with colour profiles; its first band is lightness
        return np.asarray(image.getchannel("L"))
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return np.asarray(_reduced(image).convert("L"))


def _reduced(image: Image.Image) -> Image.Image:
    factors = (max(1, image.width // LARGE), max(1, image.height // LARGE))
    return image if factors == (1, 1) else image.reduce(factors)


def _eight_bits(image: Image.Image) -> Grey:
    """16-bit grey by its full range; 32-bit and float pictures, whose range nobody states, by their own."""
    values = np.asarray(image).astype(np.float32)
    np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else (float(values.min()), float(values.max()))
    values -= low
    values *= 255 / (max(high - low, 1e-9))
    return values.round(out=values).astype(np.uint8)


def _opaque(image: Image.Image) -> Grey:
    """Transparency over white where what shows is dark, over black where it is bright: ink stays visible."""
    pixels = image.convert("RGBA")
    if max(pixels.size) >= 2 * LARGE:  # premultiplied, so that what is transparent adds no colour
        pixels = _reduced(pixels.convert("RGBa")).convert("RGBA")
    grey = np.asarray(pixels.convert("RGB").convert("L")).astype(np.float32)
    alpha = np.asarray(pixels.getchannel("A")).astype(np.float32) / 255
    shown = float((grey * alpha).sum()) / max(float(alpha.sum()), 1e-9)
    paper = 255.0 if shown < 128 else 0.0
    return (grey * alpha + paper * (1 - alpha)).round().astype(np.uint8)
