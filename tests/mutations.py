"""Hypothesis strategies: images and JSON bodies with random changes."""

import json
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.images import SEVEN, SEVENS, bad_images, encode

MAX_MUTATED_BYTES = 20_000  # mutating more is too slow
_RGB = Image.merge("RGB", [SEVEN.resize((60, 40))] * 3)
_GRADIENT = Image.fromarray(np.add.outer(np.arange(50), np.arange(70)).astype(np.uint8))

BASES: list[bytes] = [
    *(image for image in (form() for form in SEVENS.values()) if len(image) < MAX_MUTATED_BYTES),
    *(bad.body for bad in bad_images().values() if 0 < len(bad.body) < MAX_MUTATED_BYTES),
    encode(_RGB, "JPEG", progressive=True, quality=60),
    encode(_RGB, "JPEG", subsampling=2, restart_marker_rows=1),
    encode(_GRADIENT, "PNG", interlace=1),
    encode(_RGB.quantize(7), "PNG", bits=4),
    encode(_GRADIENT, "GIF", interlace=1),
    encode(_RGB, "WEBP", quality=50),
    encode(_RGB, "WEBP", save_all=True, append_images=[_RGB.rotate(90, expand=False)]),
    encode(_RGB.convert("RGBA"), "WEBP"),
    *(encode(_RGB, "TIFF", compression=kind) for kind in ("tiff_deflate", "jpeg", "packbits", "tiff_adobe_deflate")),
    *(encode(_RGB.convert("1"), "TIFF", compression=kind) for kind in ("group3", "group4")),
    encode(_RGB, "TIFF", save_all=True, append_images=[_GRADIENT]),
    encode(SEVEN.convert("P"), "BMP"),
]

_POSITION = st.integers(0, 2**16 - 1)  # in a file, in 1/2**16 of its length
_EXTREME = st.sampled_from(
    [b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0", b"\xff\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"]
)
_BYTES = st.one_of(_EXTREME, st.binary(min_size=1, max_size=6))

Change = Callable[[bytes], bytes]


def _find_offset(content: bytes, position: int) -> int:
    return len(content) * position**2 // 2**32  # squared, as most of what matters is at the beginning


def _cut_piece(content: bytes, position: int, length: int) -> bytes:
    return content[_find_offset(content, position) :][:length]


def _make_change(position: int, length: int, by: bytes, times: int) -> Change:
    """Make a change that overwrites, inserts, removes, repeats, splices or truncates, depending on its arguments."""

    def change(content: bytes) -> bytes:
        offset = _find_offset(content, position)
        return content[:offset] + by * times + content[offset + length :]

    return change


_PIECE = st.builds(_cut_piece, st.sampled_from(BASES), _POSITION, st.integers(1, 200))
_LENGTH = st.one_of(st.integers(0, 40), st.just(MAX_MUTATED_BYTES))
CHANGES = st.one_of(
    st.builds(_make_change, _POSITION, _LENGTH, _BYTES, st.sampled_from([0, 1, 1, 300])),
    st.builds(_make_change, _POSITION, _LENGTH, _PIECE, st.just(1)),
)


def _apply_changes(content: bytes, changes: list[Change], has_valid_checksums: bool) -> bytes:
    for change in changes:
        content = change(content)
    return fix_checksums(content) if has_valid_checksums else content


def fix_checksums(png: bytes) -> bytes:
    """Make a PNG's checksums valid, so that the changes in its chunks are decoded; return other files as they are."""
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        return png
    result, rest = png[:8], png[8:]
    while len(rest) >= 12:
        (length,) = struct.unpack(">I", rest[:4])
        body = rest[4 : 8 + length]
        result += rest[:4] + body + struct.pack(">I", zlib.crc32(body))
        rest = rest[12 + length :]
    return result + rest


IMAGES = st.builds(_apply_changes, st.sampled_from(BASES), st.lists(CHANGES, min_size=1, max_size=5), st.booleans())

_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["b64", "instances", "x"]), inner)
    ),
    max_leaves=12,
)
_INSTANCE = st.one_of(
    st.builds(lambda image: {"b64": b64encode(image).decode()}, st.sampled_from(BASES)),
    st.builds(lambda text: {"b64": text}, st.text(max_size=30)),
    _JSON,
)


def _make_body(instances: list[Any]) -> bytes:
    return _encode_json({"instances": instances})


def _encode_json(value: Any) -> bytes:
    return json.dumps(value).encode()


# Batch requests, bodies of any JSON, and both with changed bytes.
_UNCHANGED = st.one_of(st.builds(_make_body, st.lists(_INSTANCE, max_size=6)), st.builds(_encode_json, _JSON))
_CHANGED = st.builds(_apply_changes, _UNCHANGED, st.lists(CHANGES, min_size=1, max_size=4), st.just(False))
BODIES = st.one_of(_UNCHANGED, _CHANGED)
