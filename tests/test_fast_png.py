"""Tests of handler/fast_png.py against Pillow."""

import random
import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from handler.decoding import GrayImage, decode_image
from handler.fast_png import decode_plain_png
from handler.preprocessing import ImageError, load_gray
from tests.images import SMOKE, digits, encode

HEADER = struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0)
LINES = b"".join(b"\0" + bytes(line) for line in digits()[0][0])


def make_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def make_png(data: bytes, header: bytes = HEADER) -> bytes:
    """Make a PNG with valid checksums around any data."""
    return b"\x89PNG\r\n\x1a\n" + make_chunk(b"IHDR", header) + make_chunk(b"IDAT", data) + make_chunk(b"IEND", b"")


def test_digits_are_decoded_as_by_pillow() -> None:
    for gray in digits()[0][:500]:
        content = encode(Image.fromarray(gray))
        decoded = decode_plain_png(content)
        assert decoded is not None
        assert (decoded == decode_image(content)).all()
    assert all(decode_plain_png(content) is not None for content in SMOKE.values())


def test_other_images_are_left_to_pillow() -> None:
    gray = Image.fromarray(digits()[0][0])
    others = [encode(gray.convert(mode)) for mode in ("1", "P", "LA", "RGB", "RGBA", "I;16")]
    others += [encode(gray, kind) for kind in ("JPEG", "GIF", "BMP", "WEBP", "TIFF")]
    others += [
        encode(gray.resize((513, 4))),
        encode(gray, transparency=0),
        encode(gray, dpi=(300, 300)),
        b"",
        b"\x89PNG",
    ]
    assert [decode_plain_png(content) for content in others] == [None] * len(others)


DAMAGED = {
    "a line is missing": zlib.compress(LINES[:-29]),
    "a byte is missing": zlib.compress(LINES[:-1]),
    "cut off": zlib.compress(LINES)[:-20],
    "without its checksum": zlib.compress(LINES)[:-4],
    "wrong checksum": zlib.compress(LINES)[:-4] + b"abcd",
    "not compressed": LINES,
    "no such filter": zlib.compress(b"\x09" + LINES[1:]),
    "nothing": b"",
    "too long": zlib.compress(LINES + LINES),
    "trailing bytes": zlib.compress(LINES) + b"zzzz",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_image_is_decoded_as_by_pillow_or_left_to_it(name: str) -> None:
    content = make_png(DAMAGED[name])
    decoded = decode_plain_png(content)
    assert decoded is None or (decoded == decode_image(content)).all()


def test_mutated_images_give_the_same_as_with_pillow_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """OpenCV's decoder would also write lines to standard error."""
    generator = random.Random(0)
    for content in [encode(Image.fromarray(gray)) for gray in digits()[0][:300]]:
        changed = bytearray(content)
        for _ in range(generator.randint(1, 3)):
            changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
        mutated = bytes(changed[: generator.randint(20, 2 * len(changed))])
        assert _decode(mutated, lambda content: load_gray(content)[0]) == _decode(mutated, decode_image)
    assert capfd.readouterr().err == ""


def _decode(content: bytes, decode: Callable[[bytes], GrayImage]) -> object:
    try:
        return decode(content).tolist()
    except ImageError as error:
        return error.status, error.message
