"""Reject JPEG and TIFF files that would take too long to decode, by their headers alone."""

import os
import re
import struct
from collections.abc import Iterator

MAX_SCANS = 50  # scans of a JPEG; progressive ones have about ten, and every scan costs as much as a whole image
MAX_MARKERS = 10_000  # markers of a JPEG; 16 MiB in segments of the largest size have 256
MAX_PARTS = 65_535  # strips or tiles of a TIFF
MAX_FIELDS = 4_096  # fields of a TIFF's directory, as in libtiff
MAX_FAX_LINES = 65_535  # lines of a TIFF with fax compression; libtiff continues after a bad line

# libtiff's own limit, for a strip or tile that is a JPEG; its default is 100.
os.environ.setdefault("LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER", str(MAX_SCANS))

# A JPEG marker that has a length, unlike those within the data (00, RST, TEM, FF as padding).
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_SCAN, _END = 0xDA, 0xD9
_ARITHMETIC = (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)  # starts of frames; a scan of 12 bytes may cost 0.2 s

_WIDTH, _LENGTH, _COMPRESSION = 256, 257, 259
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_SIZES = (_WIDTH, _LENGTH, _COMPRESSION, _TILE_WIDTH, _TILE_LENGTH)
_TABLES = (273, 279, 324, 325)  # offsets and lengths of strips and tiles
_FAX = (2, 3, 4)
_NUMBERS = {3: "H", 4: "I", 16: "Q"}  # SHORT, LONG, LONG8

Fields = dict[int, tuple[int, int | None]]  # tag -> number of values, and the value if it is a single inline number


def find_format_problem(content: bytes, max_pixels: int) -> str | None:
    """Return why a JPEG or TIFF must not be decoded, else None; `max_pixels` limits a TIFF's tiles together."""
    if content.startswith(b"\xff\xd8"):
        return _find_jpeg_problem(content)
    if content.startswith((b"II", b"MM")):
        try:
            return _find_tiff_problem(content, max_pixels)
        except (struct.error, OverflowError):
            return "its directory is cut off"
    return None


def _find_jpeg_problem(jpeg: bytes) -> str | None:
    scans = 0
    for number, marker in enumerate(_iterate_markers(jpeg)):
        if number > MAX_MARKERS:
            return f"it consists of too many parts; at most {MAX_MARKERS} are read"
        scans += marker == _SCAN
        if marker in _ARITHMETIC:
            return "it has arithmetic coding; expected Huffman coding"
        if scans > MAX_SCANS:
            return f"it has over {MAX_SCANS} scans; progressive ones have about ten"
    return None


def _iterate_markers(jpeg: bytes) -> Iterator[int]:
    """Yield the markers of the file's first image, without those inside segments, which may hold a thumbnail."""
    offset = len(b"\xff\xd8")
    while found := _MARKER.search(jpeg, offset):
        offset = found.end()
        marker = jpeg[offset - 1]
        if marker == _END:
            return
        yield marker
        offset += int.from_bytes(jpeg[offset : offset + 2])


def _find_tiff_problem(tiff: bytes, max_pixels: int) -> str | None:
    fields, count = _read_directory(tiff)
    if count > MAX_FIELDS:
        return f"its directory has {count} fields; at most {MAX_FIELDS} are read"
    if len(fields) != count:
        return "its directory has a field twice"  # Pillow takes one of the two, libtiff the other
    parts = max((fields[tag][0] for tag in _TABLES if tag in fields), default=0)
    if parts > MAX_PARTS:
        return f"it has {parts} strips or tiles; at most {MAX_PARTS} are read"
    numbers = {tag: fields[tag][1] for tag in _SIZES if tag in fields}
    if None in numbers.values():
        return "its directory has a size that is not a number"
    return _find_size_problem({tag: number or 0 for tag, number in numbers.items()}, max_pixels)


def _find_size_problem(sizes: dict[int, int], max_pixels: int) -> str | None:
    width, lines = sizes.get(_WIDTH, 0), sizes.get(_LENGTH, 0)
    if sizes.get(_COMPRESSION) in _FAX and lines > MAX_FAX_LINES:
        return f"it is a fax of {lines} lines; at most {MAX_FAX_LINES} are read"
    if _TILE_WIDTH not in sizes and _TILE_LENGTH not in sizes:
        return None
    tile_width, tile_lines = sizes.get(_TILE_WIDTH, 0), sizes.get(_TILE_LENGTH, 0)
    if not tile_width or not tile_lines:
        return "its tiles have no size"
    tiles = -(-width // tile_width) * -(-lines // tile_lines)
    if tiles * tile_width * tile_lines > max_pixels:
        return f"it has {tiles} tiles of {tile_width}x{tile_lines} pixels; at most {max_pixels} pixels in all are read"
    return None


def _read_directory(tiff: bytes) -> tuple[Fields, int]:
    """Read the first directory's fields and their stated number; struct.error or OverflowError if it is cut off."""
    order = "<" if tiff.startswith(b"II") else ">"
    is_big = b"+" in tiff[2:4]  # BigTIFF has 43 in place of 42
    word, head, start = (f"{order}Q", f"{order}Q", 8) if is_big else (f"{order}I", f"{order}H", 4)
    (offset,) = struct.unpack_from(word, tiff, start)
    (count,) = struct.unpack_from(head, tiff, offset)
    offset += struct.calcsize(head)
    field = struct.Struct(f"{order}HH{word[1:]}{struct.calcsize(word)}s")
    fields: Fields = {}
    for number in range(min(count, MAX_FIELDS)):
        tag, kind, values, inline = field.unpack_from(tiff, offset + field.size * number)
        code = order + _NUMBERS.get(kind, "")
        is_number = values == 1 and len(code) > 1 and struct.calcsize(code) <= len(inline)
        fields[tag] = (values, struct.unpack_from(code, inline)[0] if is_number else None)
    return fields, count
