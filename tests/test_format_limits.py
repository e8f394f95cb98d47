"""Tests of handler/format_limits.py: costly JPEG and TIFF files are rejected, honest ones are decoded."""

import os
import struct
import time
from contextlib import suppress

import numpy as np
import psutil
import pytest
from PIL import Image

from handler.decoding import MAX_BYTES, ImageError, decode_image
from handler.format_limits import MAX_FAX_LINES, MAX_PARTS, MAX_SCANS
from tests.images import SEVEN, encode

SHORT, LONG, DOUBLE = 3, 4, 12
SIDE = 64
Field = tuple[int, int, int, int]  # tag, kind, number of values, value or offset


def get_error(content: bytes) -> str:
    """Return the error message, which takes less than a second and 64 MiB."""
    before, started = psutil.Process().memory_info().rss, time.process_time()
    with pytest.raises(ImageError) as error:
        decode_image(content)
    assert time.process_time() - started < 1
    assert psutil.Process().memory_info().rss - before < 2**26
    assert error.value.status == 400
    return error.value.message


def make_jpeg_of_scans(scans: int, image: Image.Image) -> bytes:
    """Make a progressive JPEG that repeats its last scan."""
    jpeg = encode(image, "JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last * (scans - jpeg.count(b"\xff\xda")) + jpeg[-2:]


def make_tiff(
    changed: list[Field], data: bytes = bytes(SIDE * SIDE), order: str = "<", duplicates: tuple[Field, ...] = ()
) -> bytes:
    """Make a TIFF: 8-bit gray, uncompressed, one strip, except for the changed fields; `data` is at offset 8."""
    sizes = [(256, LONG, 1, SIDE), (257, LONG, 1, SIDE)]
    kinds = [(258, SHORT, 1, 8), (259, SHORT, 1, 1), (262, SHORT, 1, 1), (277, SHORT, 1, 1)]
    strip = (
        []
        if any(tag == 322 for tag, *_ in changed)
        else [(273, LONG, 1, 8), (278, LONG, 1, SIDE), (279, LONG, 1, len(data))]
    )
    fields = {field[0]: field for field in (*sizes, *kinds, *strip, *changed)}
    listed = sorted([*fields.values(), *duplicates])
    return (
        (b"II*\0" if order == "<" else b"MM\0*")
        + struct.pack(f"{order}I", 8 + len(data))
        + data
        + struct.pack(f"{order}H", len(listed))
        + b"".join(_pack_field(field, order) for field in listed)
        + bytes(4)
    )


def _pack_field(field: Field, order: str) -> bytes:
    tag, kind, count, value = field
    inline = f"{order}HHIHxx" if kind == SHORT and count == 1 else f"{order}HHII"
    return struct.pack(inline, tag, kind, count, value)


def make_tile_fields(width: int, lines: int, count: int = 1) -> list[Field]:
    table = [(324, LONG, count, 8), (325, LONG, count, SIDE * SIDE if count == 1 else 8)]
    return [(322, LONG, 1, width), (323, LONG, 1, lines), *table]


def test_jpeg_of_many_scans_is_rejected_before_it_is_decoded() -> None:
    for scans, image in ((200_000, Image.new("L", (7000, 7000))), (MAX_SCANS + 1, SEVEN)):
        error = get_error(make_jpeg_of_scans(scans, image))
        assert "it has over 50 scans; progressive ones have about ten" in error


def test_jpeg_with_the_maximum_of_scans_is_decoded() -> None:
    assert decode_image(make_jpeg_of_scans(MAX_SCANS, SEVEN)).shape == (28, 28)


def test_scans_of_thumbnails_and_after_the_end_are_not_counted() -> None:
    """Phones put a thumbnail into the header and a video after the end."""
    jpeg, scans = encode(SEVEN, "JPEG"), b"\xff\xda" * 2 * MAX_SCANS
    thumbnail = b"\xff\xe2" + struct.pack(">H", len(scans) + 2) + scans
    assert (decode_image(jpeg[:2] + thumbnail + jpeg[2:] + scans) == decode_image(jpeg)).all()


@pytest.mark.parametrize("marker", [0xC9, 0xCA])
def test_jpeg_with_arithmetic_coding_is_rejected(marker: int) -> None:
    assert "arithmetic coding" in get_error(encode(SEVEN, "JPEG").replace(b"\xff\xc0", bytes([0xFF, marker])))


def test_jpeg_of_a_million_segments_between_scans_is_rejected() -> None:
    jpeg = encode(SEVEN, "JPEG", progressive=True)
    offset = jpeg.rindex(b"\xff\xda")
    assert "too many parts" in get_error(jpeg[:offset] + b"\xff\xfe\0\2" * 4_000_000 + jpeg[offset:])


def test_plain_tiff_of_these_tests_is_decoded() -> None:
    data = bytes(range(64)) * SIDE
    assert (decode_image(make_tiff([], data)) == np.frombuffer(data, np.uint8).reshape(SIDE, SIDE)).all()
    assert (decode_image(make_tiff([], data, ">")) == np.frombuffer(data, np.uint8).reshape(SIDE, SIDE)).all()
    tiled = decode_image(make_tiff(make_tile_fields(SIDE, SIDE), data))
    assert (tiled == np.frombuffer(data, np.uint8).reshape(SIDE, SIDE)).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "bits", "format_"), [("f", 32, 3), ("i", 32, 2), ("u", 16, 1), ("i", 16, 2)])
def test_both_byte_orders_are_decoded_the_same(order: str, kind: str, bits: int, format_: int) -> None:
    """Microscopes and scanners write all of these: here a dark square on a light background."""
    values = np.full((SIDE, SIDE), 230, f"{order}{kind}{bits // 8}")
    values[20:40, 20:40] = 20
    gray = decode_image(make_tiff([(258, SHORT, 1, bits), (339, SHORT, 1, format_)], values.tobytes(), order))
    assert gray[30, 30] < gray[0, 0] or bits == 16
    assert (gray == gray[0, 0]).sum() == SIDE**2 - 400


def test_tables_of_millions_are_rejected() -> None:
    assert "it has 8000000 strips or tiles; at most 65535" in get_error(
        make_tiff([(273, SHORT, 8_000_000, 8)], bytes(16_000_000))
    )
    many = MAX_PARTS + 1
    assert "strips or tiles" in get_error(make_tiff([(279, SHORT, many, 8)]))
    assert "strips or tiles" in get_error(make_tiff(make_tile_fields(16, 16, many)))


@pytest.mark.parametrize("compression", [1, 8])
def test_tiles_larger_than_the_image_are_rejected(compression: int) -> None:
    compressed = (259, SHORT, 1, compression)
    assert "1 tiles of 32768x32768 pixels" in get_error(make_tiff([*make_tile_fields(32768, 32768), compressed]))
    assert "64 tiles of 1048576x1 pixels" in get_error(make_tiff([*make_tile_fields(2**20, 1, 64), compressed]))


@pytest.mark.parametrize("field", [(322, LONG, 1, 0), (322, DOUBLE, 1, 8), (322, LONG, 2, 8)])
def test_tiles_without_a_size_are_rejected(field: Field) -> None:
    message = get_error(make_tiff([*make_tile_fields(16, 16), field]))
    assert "its tiles have no size" in message or "a size that is not a number" in message


def test_duplicate_field_is_rejected() -> None:
    assert "a field twice" in get_error(make_tiff([], duplicates=((257, LONG, 1, 1),)))


def test_long_fax_is_rejected_and_a_damaged_one_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0).bytes(20_000)
    fax = [(258, SHORT, 1, 1), (259, SHORT, 1, 3)]
    assert "a fax of 65536 lines" in get_error(make_tiff([*fax, (257, LONG, 1, MAX_FAX_LINES + 1)], random))
    with suppress(ImageError):
        decode_image(make_tiff([*fax, (257, LONG, 1, 10_000), (278, LONG, 1, 10_000)], random))
    os.write(2, b"still open")
    assert capfd.readouterr().err == "still open"


def test_jpeg_inside_a_tiff_has_the_same_limit_of_scans() -> None:
    image = SEVEN.resize((SIDE, SIDE))
    assert decode_image(make_tiff([(259, SHORT, 1, 7)], make_jpeg_of_scans(10, image))).shape == (SIDE, SIDE)
    get_error(make_tiff([(259, SHORT, 1, 7)], make_jpeg_of_scans(MAX_SCANS + 1, image)))


@pytest.mark.parametrize("head", [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"])
@pytest.mark.parametrize("rest", [b"", b"\xff" * 4, b"\xff" * 40, bytes(40), b"\x08" + bytes(40)])
def test_truncated_directory_is_rejected(head: bytes, rest: bytes) -> None:
    get_error(head + rest)


def test_file_of_the_maximum_size_costs_little() -> None:
    get_error((b"II*\0\x08\0\0\0\xff\xff" + bytes(MAX_BYTES))[:MAX_BYTES])
