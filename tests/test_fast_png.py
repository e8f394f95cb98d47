"""handler/plain_png.py, beside Pillow."""

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


def part(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(data: bytes, header: bytes = HEADER) -> bytes:
    """Checks are right, whatever the data are."""
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", data) + part(b"IEND", b"")


def test_digits_are_read_as_pillow_reads_them() -> None:
    for grey in digits()[0][:500]:
        picture = encode(Image.fromarray(grey))
        read = decode_plain_png(picture)
        assert read is not None
        assert (read == decode_image(picture)).all()
    assert all(decode_plain_png(picture) is not None for picture in SMOKE.values())


def test_other_pictures_are_left_to_pillow() -> None:
    grey = Image.fromarray(digits()[0][0])
    others = [encode(grey.convert(mode)) for mode in ("1", "P", "LA", "RGB", "RGBA", "I;16")]
    others += [encode(grey, kind) for kind in ("JPEG", "GIF", "BMP", "WEBP", "TIFF")]
    others += [
        encode(grey.resize((513, 4))),
        encode(grey, transparency=0),
        encode(grey, dpi=(300, 300)),
        b"",
        b"\x89PNG",
    ]
    assert [decode_plain_png(picture) for picture in others] == [None] * len(others)


DAMAGED = {
    "a line is missing": zlib.compress(LINES[:-29]),
    "a byte is missing": zlib.compress(LINES[:-1]),
    "cut off": zlib.compress(LINES)[:-20],
    "without its check": zlib.compress(LINES)[:-4],
    "wrong check": zlib.compress(LINES)[:-4] + b"abcd",
    "not compressed": LINES,
    "no such filter": zlib.compress(b"\x09" + LINES[1:]),
    "nothing": b"",
    "too long": zlib.compress(LINES + LINES),
    "something behind": zlib.compress(LINES) + b"zzzz",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_picture_is_read_as_pillow_reads_it_or_left_to_it(name: str) -> None:
    picture = png(DAMAGED[name])
    read = decode_plain_png(picture)
    assert read is None or (read == decode_image(picture)).all()


def test_mutated_pictures_end_as_with_pillow_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """And without a line on standard error, where OpenCV's decoder complains."""
    draw = random.Random(0)
    for picture in [encode(Image.fromarray(grey)) for grey in digits()[0][:300]]:
        changed = bytearray(picture)
        for _ in range(draw.randint(1, 3)):
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        mutated = bytes(changed[: draw.randint(20, 2 * len(changed))])
        assert _outcome(mutated, lambda picture: load_gray(picture)[0]) == _outcome(mutated, decode_image)
    assert capfd.readouterr().err == ""


def _outcome(picture: bytes, read: Callable[[bytes], GrayImage]) -> object:
    try:
        return read(picture).tolist()
    except ImageError as error:
        return error.status, error.message
