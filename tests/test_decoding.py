"""Tests of handler/decoding.py: invalid images get errors, large ones are reduced while they are decoded."""

import struct
import time
import zlib
from base64 import b64encode
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw

from handler.decoding import MAX_BYTES, WORKING_SIZE, ImageError, decode_image
from handler.preprocessing import frame
from tests.images import SEVEN, SEVENS, SMOKE, BadImage, bad_images, encode, make_png_header

RAW = {name: bad for name, bad in bad_images().items() if bad.request is None}


@pytest.mark.parametrize("form", SEVENS)
def test_every_form_gives_the_same_frame(form: str) -> None:
    difference = np.abs(frame(SEVENS[form]()).astype(int) - frame(SMOKE[7]).astype(int))
    assert difference.mean() <= (20 if form == "1-bit png" else 8)


@pytest.mark.parametrize("name", RAW)
def test_bad_image_gets_the_status_of_its_error(name: str) -> None:
    bad: BadImage = RAW[name]
    with pytest.raises(ImageError) as error:
        frame(bad.body)
    assert error.value.status == bad.status
    assert any(word in error.value.message for word in ("expected", "accepted", "read"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\0\x24ftypheic\0\0\0\0mif1", "a HEIC image; convert it to JPEG or PNG; expected PNG, JPEG, "),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF image; convert it to JPEG or PNG; "),
        (b"data:image/png;base64," + b64encode(SMOKE[7]), "a data URL; send the image's bytes, "),
        (b"\n" + b64encode(SMOKE[7]), "base64 text; send the image's bytes, or a batch request with the text as b64; "),
        (b64encode(SEVENS["jpeg"]()), "base64 text; "),
        (b"\0\0\0\x20ftypisom\0\0\0\0", "16 bytes that are not an image; "),
    ],
)
def test_error_names_what_was_sent_in_place_of_an_image(content: bytes, message: str) -> None:
    with pytest.raises(ImageError) as error:
        decode_image(content)
    assert error.value.message.startswith(message)
    assert (error.value.status, error.value.reason) == (400, "unreadable")


def test_image_over_the_byte_limit_is_not_decoded() -> None:
    with pytest.raises(ImageError) as error:
        decode_image(SMOKE[7] + bytes(MAX_BYTES))
    assert error.value.status == 413


def test_other_formats_are_not_decoded() -> None:
    with pytest.raises(ImageError, match="expected PNG, JPEG, GIF, BMP, WEBP or TIFF"):
        frame(encode(SEVEN, "PPM"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_large_image_is_reduced_while_it_is_decoded(kind: str, mode: str) -> None:
    gray = decode_image(encode(SEVEN.convert(mode).resize((4000, 3000)), kind))
    assert WORKING_SIZE <= max(gray.shape) < 2 * WORKING_SIZE
    assert gray.shape[1] / gray.shape[0] == pytest.approx(4 / 3, rel=0.01)


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
def test_framing_many_pixels_costs_little_more_than_decoding_them(image: Callable[[], Image.Image]) -> None:
    """The seconds depend on the machine; tests/test_hostile.py covers the limit."""

    def measure_cpu_seconds(read: Callable[[], object]) -> float:
        started = time.process_time()
        read()
        return time.process_time() - started

    def frame_blank() -> None:
        with pytest.raises(ImageError, match="nothing is drawn"):
            frame(content)

    content = encode(image())
    decoding = measure_cpu_seconds(lambda: Image.open(BytesIO(content)).load())
    fastest = min(measure_cpu_seconds(frame_blank) for _ in range(3))  # the first call has to allocate memory
    assert fastest <= 5 * decoding


def _repeat_part(start: bytes, part: bytes) -> bytes:
    """Make a file of MAX_BYTES that repeats one part."""
    return start + part * ((MAX_BYTES - len(start)) // len(part))


@pytest.mark.serial
@pytest.mark.parametrize(
    "content",
    [
        _repeat_part(b"\xff\xd8", b"\xff"),
        _repeat_part(b"\xff\xd8", b"\xff\xe1\x00\x12Exif\0\0" + bytes(10)),
        _repeat_part(b"\xff\xd8", b"\xff\xe5\x00\x02"),
        _repeat_part(b"GIF89a" + struct.pack("<HHBBB", 28, 28, 0, 0, 0), b"\x21\xfe\x01.\x00"),
        _repeat_part(make_png_header(28, 28)[:33], struct.pack(">I4sI", 0, b"prVt", zlib.crc32(b"prVt"))),
    ],
    ids=["jpeg padding", "jpeg exif", "jpeg application", "gif comments", "png chunks"],
)
def test_file_of_a_million_parts_is_rejected_quickly(content: bytes) -> None:
    started = time.perf_counter()
    with pytest.raises(ImageError, match="too many parts") as error:
        decode_image(content)
    assert error.value.status == 400
    assert time.perf_counter() - started < 3


@pytest.mark.parametrize("size", [(1100, 1), (2000, 2), (60000, 100)])
def test_no_side_of_a_narrow_image_is_reduced_to_0(size: tuple[int, int]) -> None:
    assert min(decode_image(encode(Image.new("L", size), "JPEG")).shape) >= 1


@pytest.mark.parametrize("background", [255, 0])
@pytest.mark.parametrize("radius", [0, 20, 40])
def test_page_with_a_transparent_margin_is_background(background: int, radius: int) -> None:
    page = SEVEN.resize((112, 112)).point(lambda level: abs(background - level))
    mask = Image.new("L", page.size)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 111, 111), radius, fill=255)
    padded = Image.new("LA", (132, 132))
    padded.paste(Image.merge("LA", (page, mask)), (10, 10))
    expected = frame(encode(page)).astype(int)
    assert abs(frame(encode(padded)) - expected).max() <= 2
