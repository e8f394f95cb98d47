"""Predict many images: find them in folders, send batches over several connections, make rows for CSV or JSON."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digits_client.encoding import Encoded, ImageLike, encode_batch, encode_image_or_error, split_into_batches
from digits_client.exceptions import ApiError, DigitsError, ImageFileError, UnexpectedResponseError
from digits_client.transport import MAX_BODY_BYTES
from digits_client.types import Number, Prediction, parse_number, parse_prediction

if TYPE_CHECKING:
    from digits_client.client import DigitsClient

CONNECTIONS = 8  # concurrent requests
BATCH_SIZE, MAX_BATCH_SIZE = 64, 256  # images per request; the second as MAX_INSTANCES in handler/protocol.py
SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
COLUMNS = ("path", "digit", "confidence", "accepted", "warnings", "model_version", "error")

NUMBER_COLUMNS = ("path", "number", "confidence", "accepted", "boxes", "warnings", "model_version", "error")

Result = Prediction | Number | DigitsError


def find_images(folder: Path) -> list[Path]:
    """Return the images below a folder, sorted, without hidden files; DigitsError if none or if it is unreadable."""
    if not folder.is_dir():
        raise DigitsError(f"{folder}: not a folder; expected a folder of images")
    files = (Path(below) / name for below, _, names in os.walk(folder, onerror=_raise_unreadable) for name in names)
    found = sorted(path for path in files if path.suffix.lower() in SUFFIXES and not _is_hidden(path, folder))
    if not found:
        raise DigitsError(f"{folder}: no images in it; expected {', '.join(sorted(SUFFIXES))}")
    return found


def _is_hidden(path: Path, folder: Path) -> bool:
    """Return whether a path is hidden, such as `._0.png` or below `.ipynb_checkpoints`, or not a file."""
    parts = path.relative_to(folder).parts
    return any(part.startswith(".") for part in parts) or not (path.is_file() or path.is_symlink())


def _raise_unreadable(error: OSError) -> None:
    raise DigitsError(f"{error.filename}: {error.strerror}; expected a folder that may be read") from error


def predict_batches(
    client: "DigitsClient",
    images: Iterable[ImageLike],
    batch_size: int,
    connections: int,
    version: str,
    numbers: bool = False,
) -> Iterator[Any]:
    """Yield the results of predict_batch or read_numbers; at most two requests per connection are in progress."""
    if not 1 <= batch_size <= MAX_BATCH_SIZE:
        raise DigitsError(f"{batch_size} images per batch; expected 1 to {MAX_BATCH_SIZE}")
    if connections < 1:
        raise DigitsError(f"{connections} connections; expected 1 or more")
    encoded = map(encode_image_or_error, images)
    in_progress: deque[Future[list[Result]]] = deque()
    with ThreadPoolExecutor(connections) as pool:
        try:
            for batch in split_into_batches(encoded, batch_size, MAX_BODY_BYTES):
                if len(in_progress) == 2 * connections:
                    yield from in_progress.popleft().result()
                in_progress.append(pool.submit(_predict_encoded, client, batch, version, numbers))
            while in_progress:
                yield from in_progress.popleft().result()
        finally:
            for left in in_progress:
                left.cancel()


def _predict_encoded(client: "DigitsClient", batch: list[Encoded], version: str, numbers: bool) -> list[Result]:
    """Predict a batch; return the encoding errors at their places."""
    images = [image for image in batch if isinstance(image, bytes)]
    results = iter(_predict_batch(client, images, version, numbers))
    return [next(results) if isinstance(image, bytes) else image for image in batch]


def _predict_batch(client: "DigitsClient", images: list[bytes], version: str, numbers: bool) -> list[Result]:
    """Send one request; send again, one by one, images that got no result because of the others or a deadline."""
    if len(images) <= 1:
        return [_predict_or_error(client, image, version, numbers) for image in images]
    try:
        headers = {"Content-Type": "application/json"}
        response = client.infer("predictions", version, data=encode_batch(images, numbers), headers=headers)
        results = _parse_batch(response, len(images), numbers)
    except ApiError as error:
        if not error.is_about_image or error.status in (429, 503):  # the next request would fail as well
            return [error] * len(images)
        return [_predict_or_error(client, image, version, numbers) for image in images]
    except DigitsError as error:
        return [error] * len(images)
    late = [isinstance(result, ApiError) and result.status == 503 for result in results]
    return [
        _predict_or_error(client, image, version, numbers) if is_late else result
        for image, result, is_late in zip(images, results, late, strict=True)
    ]


def _predict_or_error(client: "DigitsClient", image: bytes, version: str, numbers: bool) -> Result:
    try:
        return client.read_number(image, version) if numbers else client.predict(image, version)
    except DigitsError as error:
        return error


def _parse_batch(response: Any, count: int, numbers: bool) -> list[Prediction | Number | ApiError]:
    """Parse a batch's JSON; raise UnexpectedResponseError if it is not the digit handler's."""
    try:
        results = [_parse_result(result, numbers) for result in response["predictions"]]
    except (LookupError, TypeError) as error:
        raise UnexpectedResponseError("the response has no predictions: is this the digit service?") from error
    if len(results) != count:
        raise UnexpectedResponseError(f"the response has {len(results)} predictions; expected {count}")
    return results


def _parse_result(result: dict[str, Any], numbers: bool) -> Prediction | Number | ApiError:
    if "code" in result:
        return ApiError(result["code"], result["type"], result["message"])
    return parse_number(result) if numbers else parse_prediction(result)


def make_rows(names: list[str], results: Iterable[Result]) -> Iterator[dict[str, Any]]:
    """Yield a row per image, with COLUMNS or NUMBER_COLUMNS and more; raise errors that other images would get too."""
    for name, result in zip(names, results, strict=True):
        if isinstance(result, Prediction):
            yield {"path": name, **vars(result), "error": ""}
        elif isinstance(result, Number):
            boxes = " ".join(",".join(map(str, digit.box)) for digit in result.digits)
            yield {"path": name, **asdict(result), "boxes": boxes, "error": ""}
        elif is_about_image(result):
            yield {"path": name, "error": str(result)}
        else:
            raise result


def is_about_image(error: DigitsError) -> bool:
    """Return whether a request for another image may succeed."""
    return isinstance(error, ImageFileError) or (isinstance(error, ApiError) and error.is_about_image)
