"""handler/digit_handler.py, called as TorchServe's worker calls it, with TorchServe's own context."""

import importlib
import inspect
import json
import math
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from ts.context import Context, RequestProcessor

from handler.digit_handler import DigitHandler
from handler.preprocessing import Framed, examine, to_input
from serving.archive import build_archive
from serving.config import ROOT
from tests.pictures import SEVENS, SMOKE, bad_pictures, encode
from training.model import load_model


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model_dir")
    with ZipFile(build_archive("2.5", tmp_path_factory.mktemp("store"))) as mar:
        mar.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def handler(model_dir: Path) -> DigitHandler:
    threads = torch.get_num_threads()
    handler = DigitHandler()
    handler.initialize(context_of(model_dir, 0))
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)
    return handler


def context_of(model_dir: Path, rows: int) -> Context:
    manifest = json.loads((model_dir / "MAR-INF" / "MANIFEST.json").read_text())
    context = Context("digits", str(model_dir), manifest, 16, None, "0.12.0")
    context.request_processor = [RequestProcessor({}) for _ in range(rows)]
    return context


def ask(handler: DigitHandler, model_dir: Path, rows: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    context = context_of(model_dir, len(rows))
    answers = handler.handle(rows, context)
    assert all(context.get_response_content_type(row) == "application/json" for row in range(len(rows)))
    assert all(context.get_response_status(row)[1].isascii() for row in range(len(rows)))
    return [(context.get_response_status(row)[0], json.loads(answer)) for row, answer in enumerate(answers)]


def test_module_defines_one_class() -> None:
    module = importlib.import_module("handler.digit_handler")
    classes = [value for _, value in inspect.getmembers(module, inspect.isclass) if value.__module__ == module.__name__]
    assert classes == [DigitHandler]


def test_answer_has_the_fields_of_the_contract(handler: DigitHandler, model_dir: Path) -> None:
    [(status, answer)] = ask(handler, model_dir, [{"body": SMOKE[7]}])
    assert status == 200
    assert list(answer) == ["digit", "confidence", "accepted", "probabilities", "warnings", "model_version"]
    assert (answer["digit"], answer["accepted"], answer["warnings"], answer["model_version"]) == (7, True, [], "2.5")
    assert answer["confidence"] == answer["probabilities"][7] == max(answer["probabilities"])
    assert sum(answer["probabilities"]) == pytest.approx(1)


def test_warnings_are_each_rows_own(handler: DigitHandler, model_dir: Path) -> None:
    answers = ask(handler, model_dir, [{"body": SMOKE[7]}, {"body": SEVENS["dark on light"]()}, {"body": SMOKE[1]}])
    assert [answer["warnings"] for _, answer in answers] == [[], ["inverted"], []]


def test_what_is_no_digit_is_not_accepted(handler: DigitHandler, model_dir: Path) -> None:
    stripes = np.tile(np.repeat(np.array([0, 255], np.uint8), 8), (64, 8))
    answers = ask(
        handler, model_dir, [{"body": encode(Image.fromarray(stripes))}, *({"body": SMOKE[d]} for d in SMOKE)]
    )
    assert [answer["accepted"] for _, answer in answers] == [False, *[True] * 10]


def test_confidence_is_the_released_calibrations(handler: DigitHandler, model_dir: Path) -> None:
    released = json.loads((ROOT / "model" / "model.json").read_text())["calibration"]
    with torch.inference_mode():
        logits = load_model(ROOT / "scripted_model.pt")(to_input([examine(SMOKE[5]).frame])).double()
    [(_, answer)] = ask(handler, model_dir, [{"body": SMOKE[5]}])
    expected = (logits / released["temperature"]).softmax(1)[0].tolist()
    assert answer["probabilities"] == pytest.approx(expected, abs=1e-6)
    assert answer["accepted"] == (sum(p * math.log(p) for p in expected) >= released["threshold"])


def test_rows_are_answered_in_order(handler: DigitHandler, model_dir: Path) -> None:
    order = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]
    answers = ask(handler, model_dir, [{"body": bytearray(SMOKE[digit])} for digit in order])
    assert [answer["digit"] for _, answer in answers] == order


def test_the_field_data_is_read_before_the_body(handler: DigitHandler, model_dir: Path) -> None:
    [(_, answer)] = ask(handler, model_dir, [{"body": SMOKE[1], "data": SMOKE[2]}])
    assert answer["digit"] == 2


def test_every_form_of_a_picture_gives_the_same_digit(handler: DigitHandler, model_dir: Path) -> None:
    answers = ask(handler, model_dir, [{"body": form()} for form in SEVENS.values()])
    assert {name: answer["digit"] for name, (_, answer) in zip(SEVENS, answers, strict=True)} == dict.fromkeys(
        SEVENS, 7
    )


def test_bad_rows_fail_alone_beside_good_ones(handler: DigitHandler, model_dir: Path) -> None:
    bad = [case for case in bad_pictures().values() if case.request is None]
    rows = [row for case in bad for row in ({"body": case.body}, {"body": SMOKE[4]})]
    answers = ask(handler, model_dir, rows)
    assert [status for status, _ in answers] == [status for case in bad for status in (case.status, 200)]
    for (status, refusal), (_, good) in zip(answers[::2], answers[1::2], strict=True):
        assert good["probabilities"] == pytest.approx(answers[1][1]["probabilities"], abs=1e-6)
        assert (refusal["code"], refusal["type"]) == (status, "InvalidImage")
        assert refusal["message"]


def test_an_unforeseen_failure_stays_in_its_row(
    handler: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(picture: bytes) -> Framed:
        if picture == b"huge":
            raise MemoryError
        return examine(picture)

    monkeypatch.setattr("handler.digit_handler.examine", out_of_memory)
    answers = ask(handler, model_dir, [{"body": SMOKE[1]}, {"body": b"huge"}, {"body": SMOKE[2]}])
    assert [status for status, _ in answers] == [200, 400, 200]


@pytest.mark.parametrize("row", [{}, {"image": b"x"}, {"body": {"instances": []}}, {"data": "text"}, {"body": None}])
def test_a_row_without_a_picture_is_refused(row: dict[str, Any], handler: DigitHandler, model_dir: Path) -> None:
    [(status, refusal)] = ask(handler, model_dir, [row])
    assert status == 400
    assert "multipart field data" in refusal["message"]


def test_a_batch_costs_one_model_call(handler: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Size] = []
    model = handler.model

    def counted(pictures: torch.Tensor) -> torch.Tensor:
        calls.append(pictures.shape)
        logits: torch.Tensor = model(pictures)
        return logits

    monkeypatch.setattr(handler, "model", counted)
    ask(handler, model_dir, [{"body": SMOKE[0]}, {"body": b""}, {"body": SMOKE[1]}])
    assert calls == [torch.Size((2, 3, 64, 64))]
