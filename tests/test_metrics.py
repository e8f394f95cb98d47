"""handler/metrics.py: what a worker counts, against what it was asked."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps
from prometheus_client import Histogram
from prometheus_client.samples import Sample

from handler.decoding import ImageError
from handler.digit_handler import DigitHandler
from handler.metrics import REASONS, SECONDS, Metrics, _observe
from handler.protocol import PROBE_HEADER
from handler.records import InternalError, LateError, RequestError
from handler.request_log import RequestLog
from tests.handler_calls import EXPLAIN, JSON, make_batch_body, make_context
from tests.images import SMOKE, bad_images, encode

VERSION = "2.5"
DARK_ON_LIGHT = encode(ImageOps.invert(Image.open(BytesIO(SMOKE[7]))))


@pytest.fixture
def counting(handler: DigitHandler, monkeypatch: pytest.MonkeyPatch) -> DigitHandler:
    """The handler with counters that are at 0."""
    monkeypatch.setattr(handler, "metrics", Metrics(VERSION))
    return handler


def values(handler: DigitHandler) -> dict[str, float]:
    """Every value that is not 0, without times and sums: name and its labels but the version."""
    return {shown(each): each.value for each in samples(handler) if each.value and not each.name.endswith("_sum")}


def samples(handler: DigitHandler) -> list[Sample]:
    told = [sample for metric in handler.metrics.registry.collect() for sample in metric.samples]
    return [each for each in told if not each.name.endswith("_created")]


def shown(sample: Sample) -> str:
    assert sample.labels["version"] == VERSION
    return " ".join([sample.name, *(value for name, value in sample.labels.items() if name != "version")])


def ask(handler: DigitHandler, model_dir: Path, rows: list[Any], headers: list[dict[str, str]]) -> None:
    handler.handle([{"body": row} for row in rows], make_context(model_dir, len(rows), headers))


def test_a_batch_of_all_kinds_is_counted_to_the_last_picture(counting: DigitHandler, model_dir: Path) -> None:
    blank = bad_images()["blank white"].body
    rows = [SMOKE[7], DARK_ON_LIGHT, b"none", blank, make_batch_body(SMOKE[1], blank, b"none"), b"{", SMOKE[3], b""]
    headers: list[dict[str, str]] = [{}, {}, {}, {}, JSON, JSON, EXPLAIN, {"explain": "True", "X-Target": "x"}]
    ask(counting, model_dir, rows, headers)
    told = values(counting)
    counts = {name: value for name, value in told.items() if "_bucket" not in name}
    assert counts.pop("digits_busy_seconds_total") > 0
    assert counts == {
        "digits_requests_total digit 200": 2,
        "digits_requests_total digit 400": 3,  # no picture, no JSON, no target
        "digits_requests_total digit 422": 1,
        "digits_requests_total digits 200": 1,
        "digits_requests_total explanation 200": 1,
        "digits_predictions_total 7": 2,
        "digits_predictions_total 1": 1,
        "digits_predictions_total 3": 1,
        "digits_refusals_total unreadable": 2,
        "digits_refusals_total blank": 2,
        "digits_refusals_total invalid_request": 2,
        "digits_warnings_total inverted": 1,
        "digits_confidence_count": 4,
        "digits_ink_ratio_count": 4,
        "digits_stroke_width_pixels_count": 4,
        "digits_picture_size_pixels_count": 4,
        "digits_inference_seconds_count": 4,
        "digits_decode_seconds_count": 8,  # of which two failed
        "digits_framing_seconds_count": 6,  # of which two were blank
        "digits_handler_seconds_count": 8,
        "digits_batch_requests_count": 1,
    }
    assert told["digits_batch_requests_bucket 8.0"] == 1
    assert "digits_picture_size_pixels_bucket 24.0" not in told
    assert told["digits_picture_size_pixels_bucket 32.0"] == 4


def test_a_batchs_values_are_counted_as_prometheus_clients_own_one_by_one() -> None:
    at_once, alone = (Histogram("seconds", "", buckets=SECONDS, registry=None) for _ in range(2))
    observed = [*SECONDS, 0.0, 0.003, 0.003, 99.0]
    _observe(at_once, observed)
    for value in observed:
        alone.observe(value)
    [counted], [expected] = at_once.collect(), alone.collect()
    values_of = [
        [each.value for each in metric.samples if "_created" not in each.name] for metric in (counted, expected)
    ]
    assert values_of[0] == pytest.approx(values_of[1])


def test_a_probe_is_counted_as_nothing_else(counting: DigitHandler, model_dir: Path) -> None:
    ask(counting, model_dir, [SMOKE[7], b"none"], [{PROBE_HEADER.lower(): "1"}, {PROBE_HEADER: ""}])
    assert values(counting) == {"digits_probes_total": 2}


def test_a_forms_field_makes_no_probe(counting: DigitHandler, model_dir: Path) -> None:
    ask(counting, model_dir, [SMOKE[7]], [{PROBE_HEADER: {"filename": "x"}}])  # type: ignore[dict-item]  # as TorchServe has it
    assert values(counting)["digits_predictions_total 7"] == 1


def test_answers_are_given_whatever_fails_in_counting_them(
    counting: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(counting.metrics, "record", fail)
    [answer] = counting.handle([{"body": SMOKE[7]}], make_context(model_dir, 1))
    assert json.loads(answer)["digit"] == 7
    assert "a batch is not counted or logged" in caplog.text


def test_every_value_is_there_before_it_happens(counting: DigitHandler) -> None:
    names = {shown(sample) for sample in samples(counting)}
    assert {f"digits_refusals_total {reason}" for reason in REASONS} <= names
    assert {f"digits_predictions_total {digit}" for digit in range(10)} <= names
    assert {"digits_requests_total digits 200", "digits_rejections_total", "digits_probes_total"} <= names


def test_every_refusal_has_a_reason_that_is_counted() -> None:
    errors = [RequestError(400, ""), RequestError(413, ""), LateError(503, ""), InternalError(500, "")]
    errors += [ImageError(status, "") for status in (400, 413, 422)]
    assert {error.reason for error in errors} == set(REASONS)


def test_the_log_tells_each_request_and_no_picture(
    counting: DigitHandler, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "requests.log"
    monkeypatch.setattr(counting, "log", RequestLog(str(path), "info"))
    headers: list[dict[str, str]] = [{"X-Correlation-ID": "mine-1"}, {}, JSON, {PROBE_HEADER: "1"}, {}]
    context = make_context(model_dir, 5, headers)
    context.request_ids = {0: "first", 1: "second", 2: "third", 3: "fourth", 4: "fifth"}
    cut = encode(Image.new("RGB", (640, 480), "white"), "JPEG")[:-200]
    bodies = (SMOKE[7], b"none", make_batch_body(SMOKE[1], b""), SMOKE[7], cut)
    counting.handle([{"body": each} for each in bodies], context)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(line.pop("milliseconds") > 0 and line.pop("time").endswith("+00:00") for line in lines)
    assert all(line.pop("version") == VERSION for line in lines)
    assert 0.9 < lines[0].pop("confidence") <= 1
    assert lines[0].pop("correlation_id") == "mine-1"
    good = {"kind": "digit", "status": 200, "digit": 7, "accepted": True, "format": "PNG", "width": 28, "height": 28}
    bad = {"kind": "digit", "status": 400, "reason": "unreadable"}
    many = {"kind": "digits", "status": 200, "pictures": 2, "refused": 1}
    assert lines == [
        {"request_id": "first", "bytes": len(SMOKE[7])} | good,
        {"request_id": "second", "bytes": 4} | bad,
        {"request_id": "third", "bytes": len(SMOKE[1])} | many,
        {"request_id": "fifth", "bytes": len(cut), "format": "JPEG", "width": 640, "height": 480} | bad,
    ]
