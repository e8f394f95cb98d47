"""digits_client/batch_predict.py with a real server: order, limits, errors of single images, images in folders."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from digits_client.batch_predict import find_images
from digits_client.client import DigitsClient
from digits_client.encoding import Encoded, ImageLike, encode_batch, split_into_batches
from digits_client.exceptions import ApiError, DigitsError, ImageFileError
from digits_client.types import Prediction
from handler.protocol import MAX_INSTANCES
from tests.images import SMOKE


def test_images_are_read_only_a_few_batches_ahead(client: DigitsClient) -> None:
    taken, size = 0, 5

    def generate_images() -> Iterator[ImageLike]:
        nonlocal taken
        while True:
            taken += 1
            yield SMOKE[taken % 10]

    results = client.predict_batch(generate_images(), size, connections=4)
    for number in range(1, 41):
        result = next(results)
        assert isinstance(result, Prediction)
        assert result.digit == number % 10
        assert taken < number + (2 * 4 + 1) * size


def test_images_too_large_for_one_batch_are_sent_in_several(client: DigitsClient) -> None:
    """Fifteen images of a megabyte, one of the maximum size of a body, and one that is larger."""
    padded = [SMOKE[digit % 10] + bytes(2**20) for digit in range(15)]
    results = list(client.predict_batch([*padded, SMOKE[8] + bytes(2**24 - len(SMOKE[8])), bytes(2**24 + 1), SMOKE[9]]))
    assert [getattr(result, "digit", None) for result in results] == [*(digit % 10 for digit in range(15)), 8, None, 9]
    assert isinstance(results[-2], ApiError)
    assert results[-2].status == 413


def test_images_past_the_deadline_of_a_batch_are_sent_alone(
    client: DigitsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker returns such errors past its deadline; the batch's other predictions are kept."""
    late = {"code": 503, "type": "DeadlineExceeded", "message": "late"}
    sent: list[str] = []

    def keep_first(*values: Any, **options: Any) -> Any:
        response = infer(*values, **options)
        sent.append("batch" if "predictions" in response else "image")
        return (
            response | {"predictions": [response["predictions"][0], late, late]}
            if "predictions" in response
            else response
        )

    infer = client.infer
    monkeypatch.setattr(client, "infer", keep_first)
    results = list(client.predict_batch([SMOKE[1], SMOKE[2], SMOKE[3]]))
    assert [getattr(result, "digit", None) for result in results] == [1, 2, 3]
    assert sent == ["batch", "image", "image"]


def test_version_without_batch_requests_gets_single_images(
    client: DigitsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Archives of earlier releases return the error of an invalid image for a batch request."""
    monkeypatch.setattr("digits_client.batch_predict.encode_batch", lambda *_: b"\x89PNG")
    assert [getattr(result, "digit", None) for result in client.predict_batch([SMOKE[1], b"", SMOKE[3]])] == [
        1,
        None,
        3,
    ]


def test_batches_keep_order_and_size_limit() -> None:
    def get_body_length(batch: list[Encoded]) -> int:
        return len(encode_batch([file for file in batch if isinstance(file, bytes)]))

    random = np.random.default_rng(0)
    files = [bytes(length) for length in random.integers(0, 4000, 300)]
    batches = list(split_into_batches(files, 300, 9000))
    assert [file for batch in batches for file in batch] == files
    assert all(get_body_length(batch) <= 9000 for batch in batches)
    assert all(get_body_length([*one, other[0]]) > 9000 for one, other in pairwise(batches))
    assert list(split_into_batches([bytes(10_000)], 300, 9000)) == [[bytes(10_000)]]
    assert [len(batch) for batch in split_into_batches(files[:100], 30, 2**24)] == [30, 30, 30, 10]


def test_batch_size_and_connections_out_of_range_are_errors(client: DigitsClient) -> None:
    for size in (0, MAX_INSTANCES + 1):
        with pytest.raises(DigitsError, match=f"{size} images per batch; expected 1 to 256"):
            next(client.predict_batch([SMOKE[1]], size))
    with pytest.raises(DigitsError, match="0 connections; expected 1 or more"):
        next(client.predict_batch([SMOKE[1]], connections=0))


def test_no_images_have_no_predictions(client: DigitsClient) -> None:
    assert not list(client.predict_batch([]))
    assert [type(result) for result in client.predict_batch(["nowhere.png"])] == [ImageFileError]


def test_hidden_files_are_not_images(tmp_path: Path) -> None:
    """The folder itself may be in a hidden folder."""
    folder = tmp_path / ".cache" / "images"
    for name in ("7.png", "a/8.JPG", ".7.png", "._0.png", "a/.ipynb_checkpoints/9.png", "a/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert find_images(folder) == [folder / "7.png", folder / "a" / "8.JPG"]
    for path in (folder / "7.png", folder / "a" / "8.JPG"):
        path.unlink()
    with pytest.raises(DigitsError, match=r"images: no images in it; expected \.bmp"):
        find_images(folder)


def test_unreadable_folder_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("os.scandir", deny)
    with pytest.raises(DigitsError, match=f"{tmp_path}: Permission denied; expected a folder that may be read"):
        find_images(tmp_path)
