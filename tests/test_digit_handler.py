"""handler/digit_handler.py, called as a worker of TorchServe calls it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handler.decoding import GrayImage, Source
from handler.digit_handler import DigitHandler, _decode_and_frame
from handler.preprocessing import frame_with_warnings, load_with_pillow, to_input
from handler.records import ImageRecord
from serving.config import ROOT
from tests.handler_calls import EXPLAIN, JSON, call_handler, make_batch_body, make_context
from tests.images import SEVENS, SMOKE, bad_images, encode
from training.model import load_model


def test_answer_has_the_fields_of_the_contract(handler: DigitHandler, model_dir: Path) -> None:
    [(status, answer)] = call_handler(handler, model_dir, [{"body": SMOKE[7]}])
    assert status == 200
    assert list(answer) == ["digit", "confidence", "accepted", "probabilities", "warnings", "model_version"]
    assert (answer["digit"], answer["accepted"], answer["warnings"], answer["model_version"]) == (7, True, [], "2.5")
    assert answer["confidence"] == answer["probabilities"][7] == max(answer["probabilities"])
    assert sum(answer["probabilities"]) == pytest.approx(1)


def test_warnings_are_each_rows_own(handler: DigitHandler, model_dir: Path) -> None:
    answers = call_handler(
        handler, model_dir, [{"body": SMOKE[7]}, {"body": SEVENS["dark on light"]()}, {"body": SMOKE[1]}]
    )
    assert [answer["warnings"] for _, answer in answers] == [[], ["inverted"], []]


def test_what_is_no_digit_is_not_accepted(handler: DigitHandler, model_dir: Path) -> None:
    stripes = np.tile(np.repeat(np.array([0, 255], np.uint8), 8), (64, 8))
    answers = call_handler(
        handler, model_dir, [{"body": encode(Image.fromarray(stripes))}, *({"body": SMOKE[d]} for d in SMOKE)]
    )
    assert [answer["accepted"] for _, answer in answers] == [False, *[True] * 10]


def test_confidence_is_the_released_calibrations(handler: DigitHandler, model_dir: Path) -> None:
    released = json.loads((ROOT / "model" / "model.json").read_text())["calibration"]
    with torch.inference_mode():
        logits = load_model(ROOT / "scripted_model.pt")(to_input([frame_with_warnings(SMOKE[5]).frame])).double()
    [(_, answer)] = call_handler(handler, model_dir, [{"body": SMOKE[5]}])
    expected = (logits / released["temperature"]).softmax(1)[0].tolist()
    assert answer["probabilities"] == pytest.approx(expected, abs=1e-6)
    assert answer["accepted"] == (sum(p * math.log(p) for p in expected) >= released["threshold"])


def test_the_field_data_is_read_before_the_body(handler: DigitHandler, model_dir: Path) -> None:
    [(_, answer)] = call_handler(handler, model_dir, [{"body": SMOKE[1], "data": SMOKE[2]}])
    assert answer["digit"] == 2


def test_bad_rows_fail_alone_beside_good_ones(handler: DigitHandler, model_dir: Path) -> None:
    bad = [case for case in bad_images().values() if case.request is None]
    rows = [row for case in bad for row in ({"body": case.body}, {"body": SMOKE[4]})]
    answers = call_handler(handler, model_dir, rows)
    assert [status for status, _ in answers] == [status for case in bad for status in (case.status, 200)]
    for (status, refusal), (_, good) in zip(answers[::2], answers[1::2], strict=True):
        assert good["probabilities"] == pytest.approx(answers[1][1]["probabilities"], abs=1e-6)
        assert (refusal["code"], refusal["type"]) == (status, "InvalidImage")
        assert refusal["message"]


def test_an_unforeseen_failure_stays_in_its_row(
    handler: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(picture: bytes) -> tuple[GrayImage, Source]:
        if picture == b"huge":
            raise MemoryError
        return load_with_pillow(picture)

    monkeypatch.setattr("handler.digit_handler.load_with_pillow", out_of_memory)
    answers = call_handler(handler, model_dir, [{"body": SMOKE[1]}, {"body": b"huge"}, {"body": SMOKE[2]}])
    assert [status for status, _ in answers] == [200, 500, 200]
    assert answers[1][1] == {
        "code": 500,
        "type": "InternalServerException",
        "message": "the picture could not be processed: MemoryError",
    }


@pytest.mark.parametrize("name", ["truncated png", "blank white", "header bomb"])
def test_a_refused_picture_is_not_kept_until_its_batch_is_done(name: str) -> None:
    """An error's frames would hold its pixels: 16 large ones would be gigabytes."""
    image = ImageRecord(bad_images()[name].body)
    _decode_and_frame(image, math.inf)
    error = image.error
    assert error is not None
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


def test_text_is_the_bare_digit_and_a_refusal_is_json_all_the_same(handler: DigitHandler, model_dir: Path) -> None:
    context = make_context(model_dir, 2, [{"Accept": "text/plain"}] * 2)
    answers = handler.handle([{"body": SMOKE[6]}, {"body": b""}], context)
    assert (answers[0], context.get_response_content_type(0)) == (b"6", "text/plain")
    assert (json.loads(answers[1])["code"], context.get_response_content_type(1)) == (400, "application/json")


def test_everything_that_meets_in_one_batch_is_each_answered_right(handler: DigitHandler, model_dir: Path) -> None:
    rows = [
        {"body": SMOKE[7]},
        {"body": SMOKE[7], "target": b"3"},
        {"body": make_batch_body(SMOKE[1], b"", SMOKE[2])},
        {},
    ]
    rows += [{"body": SMOKE[4]}, {"body": b"no"}, {"body": SMOKE[9]}]
    kinds = [{}, EXPLAIN, JSON, {"describe": "True"}, EXPLAIN, EXPLAIN, {"explain": "False"}]
    answers = call_handler(handler, model_dir, rows, kinds)
    assert [status for status, _ in answers] == [200, 200, 200, 200, 200, 400, 200]
    single, why_not, many, description, why, refused, last = (answer for _, answer in answers)
    assert (single["digit"], last["digit"], refused["type"]) == (7, 9, "InvalidImage")
    assert (why_not["digit"], why_not["target"], why["digit"], why["target"]) == (7, 3, 4, 4)
    assert [each.get("digit") for each in many["predictions"]] == [1, None, 2]
    assert description["version"] == "2.5"


def test_the_description_has_version_run_and_metrics(handler: DigitHandler, model_dir: Path) -> None:
    [(_, told)] = call_handler(handler, model_dir, [{}], [{"describe": "True"}])
    record = json.loads((ROOT / "model" / "model.json").read_text())
    assert (told["version"], told["run"]["run_id"]) == ("2.5", record["run_id"])
    assert (told["metrics"], told["calibration"]) == (record["metrics"], record["calibration"])
