"""digits_client/batch_predict.py against a real server: order, limits, errors of single images; what folders hold."""

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


def test_no_more_images_are_taken_than_are_in_progress(client: DigitsClient) -> None:
    taken, size = 0, 5

    def endless() -> Iterator[ImageLike]:
        nonlocal taken
        while True:
            taken += 1
            yield SMOKE[taken % 10]

    answers = client.predict_batch(endless(), size, connections=4)
    for number in range(1, 41):
        answer = next(answers)
        assert isinstance(answer, Prediction)
        assert answer.digit == number % 10
        assert taken < number + (2 * 4 + 1) * size


def test_images_too_large_for_one_batch_are_sent_in_several(client: DigitsClient) -> None:
    """Fifteen of a megabyte, one of the most that a body may have, and one of more than that."""
    padded = [SMOKE[digit % 10] + bytes(2**20) for digit in range(15)]
    answers = list(client.predict_batch([*padded, SMOKE[8] + bytes(2**24 - len(SMOKE[8])), bytes(2**24 + 1), SMOKE[9]]))
    assert [getattr(answer, "digit", None) for answer in answers] == [*(digit % 10 for digit in range(15)), 8, None, 9]
    assert isinstance(answers[-2], ApiError)
    assert answers[-2].status == 413


def test_images_that_a_batch_had_no_time_for_are_sent_alone(
    client: DigitsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker says it that has spent its seconds; the rest of the batch is kept."""
    late = {"code": 503, "type": "DeadlineExceeded", "message": "late"}
    sent: list[str] = []

    def first_alone(*given: Any, **request: Any) -> Any:
        response = infer(*given, **request)
        sent.append("batch" if "predictions" in response else "image")
        return (
            response | {"predictions": [response["predictions"][0], late, late]}
            if "predictions" in response
            else response
        )

    infer = client.infer
    monkeypatch.setattr(client, "infer", first_alone)
    answers = list(client.predict_batch([SMOKE[1], SMOKE[2], SMOKE[3]]))
    assert [getattr(answer, "digit", None) for answer in answers] == [1, 2, 3]
    assert sent == ["batch", "image", "image"]


def test_a_version_that_knows_no_json_gets_image_by_image(
    client: DigitsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error as for what is no image, as archives of earlier releases do."""
    monkeypatch.setattr("digits_client.batch_predict.encode_batch", lambda _: b"\x89PNG")
    assert [getattr(each, "digit", None) for each in client.predict_batch([SMOKE[1], b"", SMOKE[3]])] == [1, None, 3]


def test_batches_keep_order_and_the_limit() -> None:
    def body_length(batch: list[Encoded]) -> int:
        return len(encode_batch([file for file in batch if isinstance(file, bytes)]))

    random = np.random.default_rng(0)
    files = [bytes(length) for length in random.integers(0, 4000, 300)]
    batches = list(split_into_batches(files, 300, 9000))
    assert [file for batch in batches for file in batch] == files
    assert all(body_length(batch) <= 9000 for batch in batches)
    assert all(body_length([*one, other[0]]) > 9000 for one, other in pairwise(batches))
    assert list(split_into_batches([bytes(10_000)], 300, 9000)) == [[bytes(10_000)]]
    assert [len(batch) for batch in split_into_batches(files[:100], 30, 2**24)] == [30, 30, 30, 10]


def test_a_batch_of_none_or_of_more_than_the_service_takes_is_an_error(client: DigitsClient) -> None:
    for size in (0, MAX_INSTANCES + 1):
        with pytest.raises(DigitsError, match=f"{size} images per batch; expected 1 to 256"):
            next(client.predict_batch([SMOKE[1]], size))
    with pytest.raises(DigitsError, match="0 connections; expected 1 or more"):
        next(client.predict_batch([SMOKE[1]], connections=0))


def test_no_images_have_no_predictions(client: DigitsClient) -> None:
    assert not list(client.predict_batch([]))
    assert [type(each) for each in client.predict_batch(["nowhere.png"])] == [ImageFileError]


def test_files_that_other_programs_hide_are_no_images(tmp_path: Path) -> None:
    """But the folder itself may lie in a hidden one."""
    folder = tmp_path / ".cache" / "images"
    for name in ("7.png", "a/8.JPG", ".7.png", "._0.png", "a/.ipynb_checkpoints/9.png", "a/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert find_images(folder) == [folder / "7.png", folder / "a" / "8.JPG"]
    for path in (folder / "7.png", folder / "a" / "8.JPG"):
        path.unlink()
    with pytest.raises(DigitsError, match=r"images: no images in it; expected \.bmp"):
        find_images(folder)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("os.scandir", locked)
    with pytest.raises(DigitsError, match=f"{tmp_path}: Permission denied; expected a folder that may be read"):
        find_images(tmp_path)
