"""Tests of handler/digit_handler.py, which they call as TorchServe's worker does."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handler.decoding import GrayImage, ImageInfo
from handler.digit_handler import DigitHandler
from handler.preprocessing import frame_with_warnings, load_with_pillow, to_input
from handler.records import ImageRecord
from serving.config import ROOT
from tests.handler_calls import EXPLAIN, JSON, call_handler, make_batch_body, make_context
from tests.images import SEVENS, SMOKE, bad_images, encode
from training.model import load_model


def test_response_has_the_fields_of_the_public_api(handler: DigitHandler, model_dir: Path) -> None:
    [(status, response)] = call_handler(handler, model_dir, [{"body": SMOKE[7]}])
    assert status == 200
    assert list(response) == ["digit", "confidence", "accepted", "probabilities", "warnings", "model_version"]
    assert [response[field] for field in ("digit", "accepted", "warnings", "model_version")] == [7, True, [], "2.5"]
    assert response["confidence"] == response["probabilities"][7] == max(response["probabilities"])
    assert sum(response["probabilities"]) == pytest.approx(1)


def test_warnings_belong_to_their_own_image(handler: DigitHandler, model_dir: Path) -> None:
    responses = call_handler(
        handler, model_dir, [{"body": SMOKE[7]}, {"body": SEVENS["dark on light"]()}, {"body": SMOKE[1]}]
    )
    assert [response["warnings"] for _, response in responses] == [[], ["inverted"], []]


def test_image_of_no_digit_is_rejected(handler: DigitHandler, model_dir: Path) -> None:
    stripes = np.tile(np.repeat(np.array([0, 255], np.uint8), 8), (64, 8))
    responses = call_handler(
        handler, model_dir, [{"body": encode(Image.fromarray(stripes))}, *({"body": SMOKE[d]} for d in SMOKE)]
    )
    assert [response["accepted"] for _, response in responses] == [False, *[True] * 10]


def test_confidence_has_the_shipped_models_calibration(handler: DigitHandler, model_dir: Path) -> None:
    calibration = json.loads((ROOT / "model" / "model.json").read_text())["calibration"]
    with torch.inference_mode():
        logits = load_model(ROOT / "scripted_model.pt")(to_input([frame_with_warnings(SMOKE[5]).frame])).double()
    [(_, response)] = call_handler(handler, model_dir, [{"body": SMOKE[5]}])
    expected = (logits / calibration["temperature"]).softmax(1)[0].tolist()
    assert response["probabilities"] == pytest.approx(expected, abs=1e-6)
    assert response["accepted"] == (sum(p * math.log(p) for p in expected) >= calibration["threshold"])


def test_field_data_takes_precedence_over_the_body(handler: DigitHandler, model_dir: Path) -> None:
    [(_, response)] = call_handler(handler, model_dir, [{"body": SMOKE[1], "data": SMOKE[2]}])
    assert response["digit"] == 2


def test_bad_image_fails_alone(handler: DigitHandler, model_dir: Path) -> None:
    bad = [case for case in bad_images().values() if case.request is None]
    rows = [row for case in bad for row in ({"body": case.body}, {"body": SMOKE[4]})]
    responses = call_handler(handler, model_dir, rows)
    assert [status for status, _ in responses] == [status for case in bad for status in (case.status, 200)]
    for (status, error), (_, good) in zip(responses[::2], responses[1::2], strict=True):
        assert good["probabilities"] == pytest.approx(responses[1][1]["probabilities"], abs=1e-6)
        assert (error["code"], error["type"]) == (status, "InvalidImage")
        assert error["message"]


def test_unexpected_exception_stays_in_its_row(
    handler: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_memory_error(image: bytes) -> tuple[GrayImage, ImageInfo]:
        if image == b"huge":
            raise MemoryError
        return load_with_pillow(image)

    monkeypatch.setattr("handler.image_reader.load_with_pillow", raise_memory_error)
    responses = call_handler(handler, model_dir, [{"body": SMOKE[1]}, {"body": b"huge"}, {"body": SMOKE[2]}])
    assert [status for status, _ in responses] == [200, 500, 200]
    assert responses[1][1] == {
        "code": 500,
        "type": "InternalServerException",
        "message": "the image could not be processed: MemoryError",
    }


@pytest.mark.parametrize("name", ["truncated png", "blank white", "header bomb"])
def test_bad_image_is_not_kept_in_memory_until_its_batch_is_done(name: str, handler: DigitHandler) -> None:
    """An error's traceback would hold its pixels: 16 large images would take gigabytes."""
    image = ImageRecord(bad_images()[name].body)
    handler.reader.read([image])
    error = image.error
    assert error is not None
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


def test_text_response_is_the_digit_and_an_error_is_json(handler: DigitHandler, model_dir: Path) -> None:
    context = make_context(model_dir, 2, [{"Accept": "text/plain"}] * 2)
    responses = handler.handle([{"body": SMOKE[6]}, {"body": b""}], context)
    assert (responses[0], context.get_response_content_type(0)) == (b"6", "text/plain")
    assert (json.loads(responses[1])["code"], context.get_response_content_type(1)) == (400, "application/json")


def test_all_kinds_of_requests_share_a_batch(handler: DigitHandler, model_dir: Path) -> None:
    rows = [
        {"body": SMOKE[7]},
        {"body": SMOKE[7], "target": b"3"},
        {"body": make_batch_body(SMOKE[1], b"", SMOKE[2])},
        {},
    ]
    rows += [{"body": SMOKE[4]}, {"body": b"no"}, {"body": SMOKE[9]}]
    headers = [{}, EXPLAIN, JSON, {"describe": "True"}, EXPLAIN, EXPLAIN, {"explain": "False"}]
    responses = call_handler(handler, model_dir, rows, headers)
    assert [status for status, _ in responses] == [200, 200, 200, 200, 200, 400, 200]
    first, other, batch, description, own, error, last = (response for _, response in responses)
    assert (first["digit"], last["digit"], error["type"]) == (7, 9, "InvalidImage")
    assert (other["digit"], other["target"], own["digit"], own["target"]) == (7, 3, 4, 4)
    assert [prediction.get("digit") for prediction in batch["predictions"]] == [1, None, 2]
    assert description["version"] == "2.5"


def test_description_has_version_run_and_metrics(handler: DigitHandler, model_dir: Path) -> None:
    [(_, description)] = call_handler(handler, model_dir, [{}], [{"describe": "True"}])
    record = json.loads((ROOT / "model" / "model.json").read_text())
    assert (description["version"], description["run"]["run_id"]) == ("2.5", record["run_id"])
    assert (description["metrics"], description["calibration"]) == (record["metrics"], record["calibration"])
