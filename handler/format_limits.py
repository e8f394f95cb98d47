"""What JPEG and TIFF files ask of their decoders, read before those do: each is one call that nothing can interrupt."""

import os
import re
import struct
from collections.abc import Iterator

MAX_SCANS = 50  # of a JPEG; progressive ones have some ten, and each costs like a whole picture
MAX_MARKERS = 10_000  # of a JPEG; 16 MiB in blocks of their largest size have 256
MAX_PARTS = 65_535  # strips or tiles of a TIFF
MAX_FIELDS = 4_096  # of a TIFF's directory, as libtiff has it
MAX_FAX_LINES = 65_535  # of a TIFF compressed as faxes are; libtiff goes on after each bad line

# libtiff's own limit, of each strip or tile that is a JPEG; it has 100.
os.environ.setdefault("LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER", str(MAX_SCANS))

# Of a JPEG, and with a length: unlike what stands in the midst of its data (00, RST, TEM, FF as padding).
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_SCAN, _END = 0xDA, 0xD9
_ARITHMETIC = (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)  # starts of frames; a scan of 12 bytes may cost 0.2 s

_WIDTH, _LENGTH, _COMPRESSION = 256, 257, 259
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_SIZES = (_WIDTH, _LENGTH, _COMPRESSION, _TILE_WIDTH, _TILE_LENGTH)
_TABLES = (273, 279, 324, 325)  # where strips and tiles are, and how long
_FAX = (2, 3, 4)
_NUMBERS = {3: "H", 4: "I", 16: "Q"}  # SHORT, LONG, LONG8

Fields = dict[int, tuple[int, int | None]]  # tag -> how many values, and the value if it is one number, in its place


def find_format_problem(picture: bytes, pixels: int) -> str | None:
    """Why a JPEG or TIFF file is not to be decoded; None if it may be, and for any other file.

    All tiles of a TIFF may have so many `pixels`, as a picture may: they may be far larger than it.
    """
    if picture.startswith(b"\xff\xd8"):
        return _jpeg_problem(picture)
    if picture.startswith((b"II", b"MM")):
        try:
            return _tiff_problem(picture, pixels)
        except (struct.error, OverflowError):
            return "its directory is cut off"
    return None


def _jpeg_problem(jpeg: bytes) -> str | None:
    scans = 0
    for number, marker in enumerate(_markers(jpeg)):
        if number > MAX_MARKERS:
            return f"it consists of too many parts; at most {MAX_MARKERS} are read"
        scans += marker == _SCAN
        if marker in _ARITHMETIC:
            return "it is coded arithmetically; expected Huffman's code, as everybody writes"
        if scans > MAX_SCANS:
            return f"it has over {MAX_SCANS} scans; progressive ones have some ten"
    return None


def _markers(jpeg: bytes) -> Iterator[int]:
    """Of the file's first image; what they head is passed over, for it may be a thumbnail with markers of its own."""
    at = len(b"\xff\xd8")
    while found := _MARKER.search(jpeg, at):
        at = found.end()
        marker = jpeg[at - 1]
        if marker == _END:
            return
        yield marker
        at += int.from_bytes(jpeg[at : at + 2])


def _tiff_problem(tiff: bytes, pixels: int) -> str | None:
    fields, count = _directory(tiff)
    if count > MAX_FIELDS:
        return f"its directory has {count} fields; at most {MAX_FIELDS} are read"
    if len(fields) != count:
        return "its directory has a field twice"  # Pillow takes one of the two, libtiff the other
    parts = max((fields[tag][0] for tag in _TABLES if tag in fields), default=0)
    if parts > MAX_PARTS:
        return f"it has {parts} strips or tiles; at most {MAX_PARTS} are read"
    numbers = {tag: fields[tag][1] for tag in _SIZES if tag in fields}
    if None in numbers.values():
        return "its directory has a size that is no number"
    return _sizes_problem({tag: number or 0 for tag, number in numbers.items()}, pixels)


def _sizes_problem(sizes: dict[int, int], pixels: int) -> str | None:
    width, lines = sizes.get(_WIDTH, 0), sizes.get(_LENGTH, 0)
    if sizes.get(_COMPRESSION) in _FAX and lines > MAX_FAX_LINES:
        return f"it is a fax of {lines} lines; at most {MAX_FAX_LINES} are read"
    if _TILE_WIDTH not in sizes and _TILE_LENGTH not in sizes:
        return None
    tile_width, tile_lines = sizes.get(_TILE_WIDTH, 0), sizes.get(_TILE_LENGTH, 0)
    if not tile_width or not tile_lines:
        return "its tiles have no size"
    tiles = -(-width // tile_width) * -(-lines // tile_lines)
    if tiles * tile_width * tile_lines > pixels:
        return f"its tiles are {tiles} of {tile_width}x{tile_lines} pixels; at most {pixels} in all are read"
    return None


def _directory(tiff: bytes) -> tuple[Fields, int]:
    """The first one's fields, and how many it says there are; struct.error or OverflowError if the file ends before."""
    order = "<" if tiff.startswith(b"II") else ">"
    is_big = b"+" in tiff[2:4]  # BigTIFF: 43 for 42
    word, head, start = (f"{order}Q", f"{order}Q", 8) if is_big else (f"{order}I", f"{order}H", 4)
    (at,) = struct.unpack_from(word, tiff, start)
    (count,) = struct.unpack_from(head, tiff, at)
    at += struct.calcsize(head)
    field = struct.Struct(f"{order}HH{word[1:]}{struct.calcsize(word)}s")
    fields: Fields = {}
    for number in range(min(count, MAX_FIELDS)):
        tag, kind, values, place = field.unpack_from(tiff, at + field.size * number)
        code = order + _NUMBERS.get(kind, "")
        is_number = values == 1 and len(code) > 1 and struct.calcsize(code) <= len(place)
        fields[tag] = (values, struct.unpack_from(code, place)[0] if is_number else None)
    return fields, count
