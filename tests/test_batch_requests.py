"""Batch requests and deadlines of handler/digit_handler.py."""

import time
from pathlib import Path

import pytest
import torch

from handler.classifier import MODEL_BATCH_SIZE
from handler.decoding import GrayImage, Source
from handler.digit_handler import DigitHandler
from handler.preprocessing import load_plain_png
from handler.protocol import MAX_INSTANCES
from tests.handler_calls import JSON, call_handler, make_batch_body
from tests.images import SMOKE


def test_many_large_bulk_requests_in_one_batch_take_no_more_than_a_models_call(
    handler: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    network = handler.classifier.network

    def counted(pictures: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pictures))
        logits: torch.Tensor = network(pictures)
        return logits

    monkeypatch.setattr(handler.classifier, "network", counted)
    order = [index % 10 for index in range(MAX_INSTANCES)]
    answers = call_handler(
        handler, model_dir, [{"body": make_batch_body(*[SMOKE[digit] for digit in order])}] * 4, [JSON] * 4
    )
    assert all([each["digit"] for each in answer["predictions"]] == order for _, answer in answers)
    assert sizes == [MODEL_BATCH_SIZE] * (4 * MAX_INSTANCES // MODEL_BATCH_SIZE)


def test_bulk_pictures_that_come_too_late_are_refused_and_their_neighbours_are_not(
    handler: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handler.digit_handler.BULK_SECONDS", 0.0)
    answers = call_handler(
        handler, model_dir, [{"body": make_batch_body(SMOKE[1], SMOKE[2])}, {"body": SMOKE[3]}], [JSON, {}]
    )
    (status, late), (_, single) = answers
    assert (status, single["digit"]) == (200, 3)
    assert {(each["code"], each["type"]) for each in late["predictions"]} == {(503, "DeadlineExceeded")}


def test_of_photos_that_take_long_to_read_those_within_the_time_are_answered(
    handler: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(picture: bytes) -> tuple[GrayImage, Source] | None:
        time.sleep(0.06)
        return load_plain_png(picture)

    monkeypatch.setattr("handler.digit_handler.load_plain_png", slow)
    monkeypatch.setattr("handler.digit_handler.BULK_SECONDS", 0.5)
    [(_, answer)] = call_handler(handler, model_dir, [{"body": make_batch_body(*[SMOKE[1]] * 20)}], [JSON])
    answered = ["digit" in each for each in answer["predictions"]]
    assert 2 <= sum(answered) <= 10
    assert answered == sorted(answered, reverse=True)


def test_few_pictures_do_not_wait_for_many(
    handler: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of two comes before the third picture of a call of many that shares its batch."""
    looked_at: list[bytes] = []

    def noted(picture: bytes) -> tuple[GrayImage, Source] | None:
        looked_at.append(picture)
        return load_plain_png(picture)

    monkeypatch.setattr("handler.digit_handler.load_plain_png", noted)
    rows = [make_batch_body(*[SMOKE[1]] * 4), make_batch_body(SMOKE[2], SMOKE[2]), SMOKE[3]]
    answers = call_handler(handler, model_dir, [{"body": row} for row in rows], [JSON, JSON, {}])
    assert [SMOKE[digit] for digit in (1, 2, 3, 1, 2, 1, 1)] == looked_at
    assert [each["digit"] for each in answers[0][1]["predictions"]] == [1] * 4
    assert answers[2][1]["digit"] == 3


def test_a_batch_that_has_taken_its_time_refuses_the_rest_of_it(
    handler: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handler.digit_handler.BATCH_SECONDS", 0.0)
    [(status, refusal)] = call_handler(handler, model_dir, [{"body": SMOKE[1]}])
    assert (status, refusal["code"], refusal["type"]) == (503, 503, "DeadlineExceeded")
