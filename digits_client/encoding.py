"""Encode images for requests: as the bytes of a file, and as the JSON body of a batch request."""

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from digits_client.exceptions import ImageFileError


class Array(Protocol):
    """An object with NumPy's array interface."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


ImageLike = str | Path | bytes | Image.Image | Array
Encoded = bytes | ImageFileError  # an encoded image, or why it cannot be sent

_INSTANCE_BYTES = len(json.dumps({"b64": ""}) + ", ")
_BODY_BYTES = len(json.dumps({"read": "number", "instances": []}))


def encode_image(image: ImageLike) -> bytes:
    """Return an image as the bytes of a file; ImageFileError if that is not possible."""
    try:
        if isinstance(image, bytes):
            return image
        if isinstance(image, str | Path):
            return Path(image).read_bytes()
        opened = image if isinstance(image, Image.Image) else Image.fromarray(image)
        file = BytesIO()
        opened.save(file, "TIFF" if opened.mode == "CMYK" else "PNG")
        return file.getvalue()
    except OSError as error:
        raise ImageFileError(f"{_describe(image)}: {error.strerror or error}; expected an image file") from error
    except (TypeError, ValueError, AttributeError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise ImageFileError(
            f"{_describe(image)}: {error}; expected a path, bytes, an image or a uint8 array"
        ) from error


def encode_image_or_error(image: ImageLike) -> Encoded:
    """Return the image's bytes, or the error as a value."""
    try:
        return encode_image(image)
    except ImageFileError as error:
        return error


def encode_batch(images: Sequence[bytes], numbers: bool = False) -> bytes:
    """Return the JSON body of a batch request for digits or numbers."""
    body: dict[str, Any] = {"read": "number"} if numbers else {}
    return json.dumps(body | {"instances": [{"b64": b64encode(image).decode()} for image in images]}).encode()


def split_into_batches(images: Iterable[Encoded], batch_size: int, max_bytes: int) -> Iterator[list[Encoded]]:
    """Yield batches of at most `batch_size` and, as JSON, `max_bytes`; a larger image is a batch of its own."""
    batch: list[Encoded] = []
    length = _BODY_BYTES
    for image in images:
        added = _INSTANCE_BYTES + 4 * ((len(image) + 2) // 3) if isinstance(image, bytes) else 0
        if batch and length + added > max_bytes:
            yield batch
            batch, length = [], _BODY_BYTES
        batch.append(image)
        length += added
        if len(batch) == batch_size:  # without waiting for the next image
            yield batch
            batch, length = [], _BODY_BYTES
    if batch:
        yield batch


def _describe(image: Any) -> str:
    if isinstance(image, str | Path):
        return str(image)
    return f"array {image.dtype} {list(image.shape)}" if hasattr(image, "dtype") else type(image).__name__
