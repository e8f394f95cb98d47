"""Pictures as they are sent: whatever a caller has, as a file's bytes; and many of them as one JSON body."""

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.config import ServingError

Picture = str | Path | bytes | Image.Image | NDArray[Any]

_ITEM = len(json.dumps({"b64": ""}) + ", ")
_BODY = len(json.dumps({"instances": []}))


class PictureError(ServingError):
    """What was given cannot be sent: no such file, an array of another kind."""


File = bytes | PictureError  # what there is of a picture to be sent


def read_picture(picture: Picture) -> bytes:
    """A picture as a file's bytes; PictureError if it cannot become one."""
    try:
        if isinstance(picture, bytes):
            return picture
        if isinstance(picture, str | Path):
            return Path(picture).read_bytes()
        image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
        file = BytesIO()
        image.save(file, "TIFF" if image.mode == "CMYK" else "PNG")
        return file.getvalue()
    except OSError as error:
        raise PictureError(f"{_named(picture)}: {error.strerror or error}; expected a picture's file") from error
    except (TypeError, ValueError, AttributeError, SyntaxError) as error:  # SyntaxError: Pillow's of a broken PNG
        raise PictureError(f"{_named(picture)}: {error}; expected a path, bytes, an image or a uint8 array") from error


def instances(files: Sequence[bytes]) -> bytes:
    """The JSON body that asks about all of them."""
    return json.dumps({"instances": [{"b64": b64encode(file).decode()} for file in files]}).encode()


def file_or_error(picture: Picture) -> bytes | PictureError:
    """As `read_picture`, the error as a value."""
    try:
        return read_picture(picture)
    except PictureError as error:
        return error


def calls(files: Iterable[File], count: int, most: int) -> Iterator[list[File]]:
    """The files in order, taken one by one, in groups of `count` whose JSON body has at most `most` bytes.

    One that is larger is alone. What could not be read takes no room.
    """
    group: list[File] = []
    length = _BODY
    for file in files:
        item = _ITEM + 4 * ((len(file) + 2) // 3) if isinstance(file, bytes) else 0
        if group and length + item > most:
            yield group
            group, length = [], _BODY
        group.append(file)
        length += item
        if len(group) == count:  # now, and not when the next file is there
            yield group
            group, length = [], _BODY
    if group:
        yield group


def _named(picture: Picture) -> str:
    if isinstance(picture, np.ndarray):
        return f"array {picture.dtype} {list(picture.shape)}"
    return str(picture) if isinstance(picture, str | Path) else type(picture).__name__
