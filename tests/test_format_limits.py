"""handler/claims.py: what JPEG and TIFF files may ask of their decoders, and what honest ones are still read."""

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
Field = tuple[int, int, int, int]  # tag, kind, how many, value or place


def refusal(picture: bytes) -> str:
    """Why it is refused, within a moment and a few megabytes."""
    before, started = psutil.Process().memory_info().rss, time.process_time()
    with pytest.raises(ImageError) as caught:
        decode_image(picture)
    assert time.process_time() - started < 1
    assert psutil.Process().memory_info().rss - before < 2**26
    assert caught.value.status == 400
    return caught.value.message


def jpeg_of_scans(scans: int, image: Image.Image) -> bytes:
    """Progressive; its last scan again until there are so many."""
    jpeg = encode(image, "JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last * (scans - jpeg.count(b"\xff\xda")) + jpeg[-2:]


def tiff(
    changed: list[Field], data: bytes = bytes(SIDE * SIDE), order: str = "<", twice: tuple[Field, ...] = ()
) -> bytes:
    """Grey, 8 bits, uncompressed, of one strip, but for the fields that are changed; `data` is at place 8."""
    sizes = [(256, LONG, 1, SIDE), (257, LONG, 1, SIDE)]
    kinds = [(258, SHORT, 1, 8), (259, SHORT, 1, 1), (262, SHORT, 1, 1), (277, SHORT, 1, 1)]
    strip = (
        []
        if any(tag == 322 for tag, *_ in changed)
        else [(273, LONG, 1, 8), (278, LONG, 1, SIDE), (279, LONG, 1, len(data))]
    )
    fields = {field[0]: field for field in (*sizes, *kinds, *strip, *changed)}
    listed = sorted([*fields.values(), *twice])
    return (
        (b"II*\0" if order == "<" else b"MM\0*")
        + struct.pack(f"{order}I", 8 + len(data))
        + data
        + struct.pack(f"{order}H", len(listed))
        + b"".join(_field(field, order) for field in listed)
        + bytes(4)
    )


def _field(field: Field, order: str) -> bytes:
    tag, kind, count, value = field
    inline = f"{order}HHIHxx" if kind == SHORT and count == 1 else f"{order}HHII"
    return struct.pack(inline, tag, kind, count, value)


def tiles(width: int, lines: int, count: int = 1) -> list[Field]:
    table = [(324, LONG, count, 8), (325, LONG, count, SIDE * SIDE if count == 1 else 8)]
    return [(322, LONG, 1, width), (323, LONG, 1, lines), *table]


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    for picture in (jpeg_of_scans(200_000, Image.new("L", (7000, 7000))), jpeg_of_scans(MAX_SCANS + 1, SEVEN)):
        assert "it has over 50 scans; progressive ones have some ten" in refusal(picture)


def test_as_many_scans_as_allowed_are_read() -> None:
    assert decode_image(jpeg_of_scans(MAX_SCANS, SEVEN)).shape == (28, 28)


def test_scans_of_thumbnails_and_of_what_follows_a_picture_do_not_count() -> None:
    """Phones put a thumbnail into the head and a film behind the end."""
    jpeg, scans = encode(SEVEN, "JPEG"), b"\xff\xda" * 2 * MAX_SCANS
    thumbnail = b"\xff\xe2" + struct.pack(">H", len(scans) + 2) + scans
    assert (decode_image(jpeg[:2] + thumbnail + jpeg[2:] + scans) == decode_image(jpeg)).all()


@pytest.mark.parametrize("marker", [0xC9, 0xCA])
def test_a_jpeg_coded_arithmetically_is_refused(marker: int) -> None:
    assert "arithmetically" in refusal(encode(SEVEN, "JPEG").replace(b"\xff\xc0", bytes([0xFF, marker])))


def test_a_jpeg_of_a_million_blocks_between_its_scans_is_refused() -> None:
    jpeg = encode(SEVEN, "JPEG", progressive=True)
    at = jpeg.rindex(b"\xff\xda")
    assert "too many parts" in refusal(jpeg[:at] + b"\xff\xfe\0\2" * 4_000_000 + jpeg[at:])


def test_the_plain_tiff_of_these_tests_is_read() -> None:
    data = bytes(range(64)) * SIDE
    assert (decode_image(tiff([], data)) == np.frombuffer(data, np.uint8).reshape(SIDE, SIDE)).all()
    assert (decode_image(tiff([], data, ">")) == np.frombuffer(data, np.uint8).reshape(SIDE, SIDE)).all()
    tiled = decode_image(tiff(tiles(SIDE, SIDE), data))
    assert (tiled == np.frombuffer(data, np.uint8).reshape(SIDE, SIDE)).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "bits", "format_"), [("f", 32, 3), ("i", 32, 2), ("u", 16, 1), ("i", 16, 2)])
def test_numbers_of_either_byte_order_are_read_alike(order: str, kind: str, bits: int, format_: int) -> None:
    """A dark square on light paper: microscopes and scanners write all of these."""
    values = np.full((SIDE, SIDE), 230, f"{order}{kind}{bits // 8}")
    values[20:40, 20:40] = 20
    grey = decode_image(tiff([(258, SHORT, 1, bits), (339, SHORT, 1, format_)], values.tobytes(), order))
    assert grey[30, 30] < grey[0, 0] or bits == 16
    assert (grey == grey[0, 0]).sum() == SIDE**2 - 400


def test_tables_of_millions_are_refused() -> None:
    assert "it has 8000000 strips or tiles; at most 65535" in refusal(
        tiff([(273, SHORT, 8_000_000, 8)], bytes(16_000_000))
    )
    many = MAX_PARTS + 1
    assert "strips or tiles" in refusal(tiff([(279, SHORT, many, 8)]))
    assert "strips or tiles" in refusal(tiff(tiles(16, 16, many)))


@pytest.mark.parametrize("compression", [1, 8])
def test_tiles_that_are_larger_than_their_picture_are_refused(compression: int) -> None:
    compressed = (259, SHORT, 1, compression)
    assert "1 of 32768x32768 pixels" in refusal(tiff([*tiles(32768, 32768), compressed]))
    assert "64 of 1048576x1 pixels" in refusal(tiff([*tiles(2**20, 1, 64), compressed]))


@pytest.mark.parametrize("field", [(322, LONG, 1, 0), (322, DOUBLE, 1, 8), (322, LONG, 2, 8)])
def test_tiles_of_no_size_are_refused(field: Field) -> None:
    told = refusal(tiff([*tiles(16, 16), field]))
    assert "its tiles have no size" in told or "a size that is no number" in told


def test_a_field_that_is_there_twice_is_refused() -> None:
    assert "a field twice" in refusal(tiff([], twice=((257, LONG, 1, 1),)))


def test_a_fax_of_too_many_lines_is_refused_and_a_broken_one_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0).bytes(20_000)
    fax = [(258, SHORT, 1, 1), (259, SHORT, 1, 3)]
    assert "a fax of 65536 lines" in refusal(tiff([*fax, (257, LONG, 1, MAX_FAX_LINES + 1)], random))
    with suppress(ImageError):
        decode_image(tiff([*fax, (257, LONG, 1, 10_000), (278, LONG, 1, 10_000)], random))
    os.write(2, b"still open")
    assert capfd.readouterr().err == "still open"


def test_a_jpeg_inside_a_tiff_has_the_limit_of_scans() -> None:
    picture = SEVEN.resize((SIDE, SIDE))
    assert decode_image(tiff([(259, SHORT, 1, 7)], jpeg_of_scans(10, picture))).shape == (SIDE, SIDE)
    refusal(tiff([(259, SHORT, 1, 7)], jpeg_of_scans(MAX_SCANS + 1, picture)))


@pytest.mark.parametrize("head", [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"])
@pytest.mark.parametrize("rest", [b"", b"\xff" * 4, b"\xff" * 40, bytes(40), b"\x08" + bytes(40)])
def test_a_directory_that_is_cut_off_is_refused(head: bytes, rest: bytes) -> None:
    refusal(head + rest)


def test_a_file_of_the_limit_costs_little() -> None:
    refusal((b"II*\0\x08\0\0\0\xff\xff" + bytes(MAX_BYTES))[:MAX_BYTES])
