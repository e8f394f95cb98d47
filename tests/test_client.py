"""serving/client.py against a real server: forms of pictures, many at once, tokens, errors."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handler.preprocessing import examine
from handler.protocol import MAX_INSTANCES
from serving.client import DigitsClient
from serving.config import ServingError
from serving.connection import RefusedError
from serving.pictures import File, Picture, PictureError, calls, instances
from serving.results import Answer
from tests.pictures import SMOKE

SEVEN = Path(__file__).parents[1] / "handler" / "smoke" / "7.png"


def forms() -> dict[str, Picture]:
    grey = np.asarray(Image.open(SEVEN))
    return {
        "path": SEVEN,
        "text": str(SEVEN),
        "bytes": SEVEN.read_bytes(),
        "array": grey,
        "array, dark on light": 255 - grey,
        "array [H,W,3]": np.stack([grey] * 3, 2),
        "array [H,W,4]": np.stack([grey, grey, grey, np.full_like(grey, 255)], 2),
        "array of bool": grey > 100,
        "array of 16 bits": grey.astype(np.uint16) * 257,
        **{mode: Image.open(SEVEN).convert(mode) for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK")},
    }


@pytest.mark.parametrize("form", forms())
def test_every_form_of_a_picture_is_read(form: str, client: DigitsClient) -> None:
    assert client.predict(forms()[form]).digit == 7


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        ("nowhere.png", "nowhere.png: No such file or directory; expected a picture's file"),
        (SEVEN.parent, "smoke: Is a directory"),
        (np.zeros((28, 28), np.float32) + 0.5, r"array float32 \[28, 28\]"),
        (np.zeros((2, 2, 2, 2), np.uint8), r"array uint8 \[2, 2, 2, 2\]"),
        (7, "int: "),
    ],
)
def test_what_is_no_picture_is_named(picture: Picture, told: str, client: DigitsClient) -> None:
    with pytest.raises(PictureError, match=told):
        client.predict(picture)


def test_no_more_pictures_are_taken_than_are_under_way(client: DigitsClient) -> None:
    taken, bulk = 0, 5

    def endless() -> Iterator[Picture]:
        nonlocal taken
        while True:
            taken += 1
            yield SMOKE[taken % 10]

    answers = client.predict_many(endless(), connections=4, bulk=bulk)
    for number in range(1, 41):
        answer = next(answers)
        assert isinstance(answer, Answer)
        assert answer.digit == number % 10
        assert taken < number + (2 * 4 + 1) * bulk


def test_pictures_too_large_for_one_call_are_sent_in_several(client: DigitsClient) -> None:
    """Fifteen of a megabyte, one of the most that a body may have, and one of more than that."""
    padded = [SMOKE[digit % 10] + bytes(2**20) for digit in range(15)]
    answers = list(client.predict_many([*padded, SMOKE[8] + bytes(2**24 - len(SMOKE[8])), bytes(2**24 + 1), SMOKE[9]]))
    assert [getattr(answer, "digit", None) for answer in answers] == [*(digit % 10 for digit in range(15)), 8, None, 9]
    assert isinstance(answers[-2], RefusedError)
    assert answers[-2].status == 413


def test_pictures_that_a_call_had_no_time_for_are_asked_about_alone(
    client: DigitsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker says it that has spent its seconds; the rest of the call is kept."""
    late = {"code": 503, "type": "DeadlineExceeded", "message": "late"}
    asked: list[str] = []

    def first_alone(kind: str, version: str, **request: Any) -> Any:
        told = inferred(kind, version, **request)
        asked.append("call" if "predictions" in told else "picture")
        return told | {"predictions": [told["predictions"][0], late, late]} if "predictions" in told else told

    inferred = client._inferred
    monkeypatch.setattr(client, "_inferred", first_alone)
    answers = list(client.predict_many([SMOKE[1], SMOKE[2], SMOKE[3]]))
    assert [getattr(answer, "digit", None) for answer in answers] == [1, 2, 3]
    assert asked == ["call", "picture", "picture"]


def test_a_version_that_knows_no_json_is_asked_picture_by_picture(
    client: DigitsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused as a picture that is none, as archives of earlier releases do."""
    monkeypatch.setattr("serving.client.instances", lambda _: b"\x89PNG")
    assert [getattr(each, "digit", None) for each in client.predict_many([SMOKE[1], b"", SMOKE[3]])] == [1, None, 3]


def test_calls_keep_order_and_the_limit() -> None:
    def body_length(group: list[File]) -> int:
        return len(instances([file for file in group if isinstance(file, bytes)]))

    random = np.random.default_rng(0)
    files = [bytes(length) for length in random.integers(0, 4000, 300)]
    grouped = list(calls(files, 300, 9000))
    assert [file for group in grouped for file in group] == files
    assert all(body_length(group) <= 9000 for group in grouped)
    assert all(body_length([*one, other[0]]) > 9000 for one, other in pairwise(grouped))
    assert list(calls([bytes(10_000)], 300, 9000)) == [[bytes(10_000)]]
    assert [len(group) for group in calls(files[:100], 30, 2**24)] == [30, 30, 30, 10]


def test_a_call_of_none_or_of_more_than_the_service_takes_is_refused(client: DigitsClient) -> None:
    for bulk in (0, MAX_INSTANCES + 1):
        with pytest.raises(ServingError, match=f"{bulk} pictures a call; expected 1 to 256"):
            next(client.predict_many([SMOKE[1]], bulk=bulk))


def test_no_pictures_have_no_answers(client: DigitsClient) -> None:
    assert not list(client.predict_many([]))
    assert [type(each) for each in client.predict_many(["nowhere.png"])] == [PictureError]


def test_an_explanation_has_arrays(client: DigitsClient) -> None:
    why, why_not = client.explain(SMOKE[7]), client.explain(SMOKE[7], target=3)
    assert (why.digit, why.target, why_not.digit, why_not.target) == (7, 7, 7, 3)
    assert (why.framed == examine(SMOKE[7]).frame).all()
    assert why.attribution.shape == (64, 64)
    assert why.attribution.sum() > 0 > why_not.attribution.sum()
