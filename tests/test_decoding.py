"""handler/decoding.py: what is no picture is refused, whatever it claims to be, and a large one is read reduced."""

import struct
import time
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw

from handler.decoding import MAX_BYTES, WORKING_SIDE, ImageError, decode_image
from handler.preprocessing import frame
from tests.pictures import SEVEN, SEVENS, SMOKE, Bad, bad_pictures, encode, png_header

RAW = {name: bad for name, bad in bad_pictures().items() if bad.request is None}


@pytest.mark.parametrize("form", SEVENS)
def test_every_form_gives_the_same_frame(form: str) -> None:
    difference = np.abs(frame(SEVENS[form]()).astype(int) - frame(SMOKE[7]).astype(int))
    assert difference.mean() <= (20 if form == "1-bit png" else 8)


@pytest.mark.parametrize("name", RAW)
def test_what_is_no_picture_is_refused_with_its_status(name: str) -> None:
    bad: Bad = RAW[name]
    with pytest.raises(ImageError) as refusal:
        frame(bad.body)
    assert refusal.value.status == bad.status
    assert "expected" in refusal.value.message or "accepted" in refusal.value.message or "read" in refusal.value.message


def test_more_bytes_than_the_limit_are_refused_unread() -> None:
    with pytest.raises(ImageError) as refusal:
        decode_image(SMOKE[7] + bytes(MAX_BYTES))
    assert refusal.value.status == 413


def test_only_the_formats_of_the_contract_are_opened() -> None:
    with pytest.raises(ImageError, match="expected PNG, JPEG, GIF, BMP, WEBP or TIFF"):
        frame(encode(SEVEN, "PPM"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_large_picture_is_read_reduced_with_its_aspect(kind: str, mode: str) -> None:
    grey = decode_image(encode(SEVEN.convert(mode).resize((4000, 3000)), kind))
    assert WORKING_SIDE <= max(grey.shape) < 2 * WORKING_SIDE
    assert grey.shape[1] / grey.shape[0] == pytest.approx(4 / 3, rel=0.01)


@pytest.mark.serial
@pytest.mark.parametrize(
    "image",
    [
        lambda: Image.new("L", (1, 12_000_000), 0),
        lambda: Image.new("L", (12_000_000, 1), 0),
        lambda: Image.new("RGBA", (3500, 3500), (0, 0, 0, 0)),
        lambda: Image.fromarray(np.zeros((3500, 3500), np.uint16)),
    ],
    ids=["column", "row", "rgba", "16-bit"],
)
def test_a_picture_of_many_pixels_costs_little_more_than_its_decoding(image: Callable[[], Image.Image]) -> None:
    """How many seconds that is, the machine decides; what takes too many is ended, see tests/test_hostile.py."""

    def cpu_seconds(read: Callable[[], object]) -> float:
        started = time.process_time()
        read()
        return time.process_time() - started

    def framed() -> None:
        with pytest.raises(ImageError, match="nothing is drawn"):
            frame(content)

    content = encode(image())
    decoding = cpu_seconds(lambda: Image.open(BytesIO(content)).load())
    assert min(cpu_seconds(framed) for _ in range(3)) <= 5 * decoding  # the first time, memory has to be had


def _parts(start: bytes, part: bytes) -> bytes:
    """A file of MAX_BYTES that consists of one part again and again."""
    return start + part * ((MAX_BYTES - len(start)) // len(part))


@pytest.mark.serial
@pytest.mark.parametrize(
    "picture",
    [
        _parts(b"\xff\xd8", b"\xff"),
        _parts(b"\xff\xd8", b"\xff\xe1\x00\x12Exif\0\0" + bytes(10)),
        _parts(b"\xff\xd8", b"\xff\xe5\x00\x02"),
        _parts(b"GIF89a" + struct.pack("<HHBBB", 28, 28, 0, 0, 0), b"\x21\xfe\x01.\x00"),
        _parts(png_header(28, 28)[:33], struct.pack(">I4sI", 0, b"prVt", zlib.crc32(b"prVt"))),
    ],
    ids=["jpeg padding", "jpeg exif", "jpeg application", "gif comments", "png chunks"],
)
def test_a_file_of_a_million_parts_is_refused_soon(picture: bytes) -> None:
    started = time.perf_counter()
    with pytest.raises(ImageError, match="too many parts") as error:
        decode_image(picture)
    assert error.value.status == 400
    assert time.perf_counter() - started < 3


@pytest.mark.parametrize("size", [(1100, 1), (2000, 2), (60000, 100)])
def test_a_strip_is_decoded_with_no_side_reduced_to_nothing(size: tuple[int, int]) -> None:
    assert min(decode_image(encode(Image.new("L", size), "JPEG")).shape) >= 1


@pytest.mark.parametrize("paper", [255, 0])
@pytest.mark.parametrize("radius", [0, 20, 40])
def test_a_card_with_a_transparent_margin_is_paper_not_ink(paper: int, radius: int) -> None:
    drawn = SEVEN.resize((112, 112)).point(lambda level: abs(paper - level))
    mask = Image.new("L", drawn.size)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 111, 111), radius, fill=255)
    card = Image.new("LA", (132, 132))
    card.paste(Image.merge("LA", (drawn, mask)), (10, 10))
    expected = frame(encode(drawn)).astype(int)
    assert abs(frame(encode(card)) - expected).max() <= 2
