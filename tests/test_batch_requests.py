"""Tests of batch requests and deadlines in handler/digit_handler.py."""

import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from handler.classifier import MODEL_BATCH_SIZE
from handler.decoding import GrayImage, ImageInfo
from handler.digit_handler import DigitHandler
from handler.preprocessing import load_plain_png
from handler.protocol import MAX_INSTANCES
from tests.handler_calls import JSON, call_handler, make_batch_body
from tests.images import SMOKE


def test_large_batch_requests_are_split_into_model_calls(
    handler: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    network = handler.reader.classifier.network

    def count_images(images: NDArray[np.float32]) -> NDArray[np.float32]:
        sizes.append(len(images))
        return network(images)

    monkeypatch.setattr(handler.reader.classifier, "network", count_images)
    order = [index % 10 for index in range(MAX_INSTANCES)]
    responses = call_handler(
        handler, model_dir, [{"body": make_batch_body(*[SMOKE[digit] for digit in order])}] * 4, [JSON] * 4
    )
    assert all([one["digit"] for one in response["predictions"]] == order for _, response in responses)
    assert sizes == [MODEL_BATCH_SIZE] * (4 * MAX_INSTANCES // MODEL_BATCH_SIZE)


def test_late_images_of_a_batch_request_fail_alone(
    handler: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handler.digit_handler.BATCH_REQUESTS_SECONDS", 0.0)
    responses = call_handler(
        handler, model_dir, [{"body": make_batch_body(SMOKE[1], SMOKE[2])}, {"body": SMOKE[3]}], [JSON, {}]
    )
    (status, late), (_, single) = responses
    assert (status, single["digit"]) == (200, 3)
    assert {(error["code"], error["type"]) for error in late["predictions"]} == {(503, "DeadlineExceeded")}


def test_images_before_the_deadline_are_predicted(
    handler: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_slowly(image: bytes) -> tuple[GrayImage, ImageInfo] | None:
        time.sleep(0.06)
        return load_plain_png(image)

    monkeypatch.setattr("handler.image_reader.load_plain_png", load_slowly)
    monkeypatch.setattr("handler.digit_handler.BATCH_REQUESTS_SECONDS", 0.5)
    [(_, response)] = call_handler(handler, model_dir, [{"body": make_batch_body(*[SMOKE[1]] * 20)}], [JSON])
    predicted = ["digit" in prediction for prediction in response["predictions"]]
    assert 2 <= sum(predicted) <= 10
    assert predicted == sorted(predicted, reverse=True)


def test_request_with_few_images_does_not_wait_for_many(
    handler: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request of two is decoded before the third image of a larger request in its batch."""
    decoded: list[bytes] = []

    def note_and_load(image: bytes) -> tuple[GrayImage, ImageInfo] | None:
        decoded.append(image)
        return load_plain_png(image)

    monkeypatch.setattr("handler.image_reader.load_plain_png", note_and_load)
    rows = [make_batch_body(*[SMOKE[1]] * 4), make_batch_body(SMOKE[2], SMOKE[2]), SMOKE[3]]
    responses = call_handler(handler, model_dir, [{"body": row} for row in rows], [JSON, JSON, {}])
    assert [SMOKE[digit] for digit in (1, 2, 3, 1, 2, 1, 1)] == decoded
    assert [prediction["digit"] for prediction in responses[0][1]["predictions"]] == [1] * 4
    assert responses[2][1]["digit"] == 3


def test_images_after_the_batchs_deadline_get_an_error(
    handler: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handler.digit_handler.BATCH_SECONDS", 0.0)
    [(status, error)] = call_handler(handler, model_dir, [{"body": SMOKE[1]}])
    assert (status, error["code"], error["type"]) == (503, 503, "DeadlineExceeded")
