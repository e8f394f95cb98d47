"""Tests of handler/metrics.py: a worker's counts match its requests."""

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
from handler.metrics import DURATION_BUCKETS, REASONS, Metrics, _observe_all
from handler.number_segmentation import SeveralLinesError
from handler.protocol import PROBE_HEADER
from handler.records import DeadlineExceededError, InternalError, RequestError
from handler.request_log import RequestLog
from tests.handler_calls import EXPLAIN, JSON, READ, make_batch_body, make_context
from tests.images import SMOKE, bad_images, encode

VERSION = "2.5"
DARK_ON_LIGHT = encode(ImageOps.invert(Image.open(BytesIO(SMOKE[7]))))


@pytest.fixture
def counting(handler: DigitHandler, monkeypatch: pytest.MonkeyPatch) -> DigitHandler:
    """Return the handler with counters that start at 0."""
    monkeypatch.setattr(handler, "metrics", Metrics(VERSION))
    return handler


def read_values(handler: DigitHandler) -> dict[str, float]:
    """Return the values that are not 0, without sums: name and labels except the version -> value."""
    samples = [sample for sample in read_samples(handler) if sample.value and not sample.name.endswith("_sum")]
    return {format_labels(sample): sample.value for sample in samples}


def read_samples(handler: DigitHandler) -> list[Sample]:
    samples = [sample for metric in handler.metrics.registry.collect() for sample in metric.samples]
    return [sample for sample in samples if not sample.name.endswith("_created")]


def format_labels(sample: Sample) -> str:
    assert sample.labels["version"] == VERSION
    return " ".join([sample.name, *(value for name, value in sample.labels.items() if name != "version")])


def call(handler: DigitHandler, model_dir: Path, rows: list[Any], headers: list[dict[str, str]]) -> None:
    handler.handle([{"body": row} for row in rows], make_context(model_dir, len(rows), headers))


def test_every_image_of_a_batch_of_all_kinds_is_counted(counting: DigitHandler, model_dir: Path) -> None:
    blank = bad_images()["blank white"].body
    rows = [SMOKE[7], DARK_ON_LIGHT, b"none", blank, make_batch_body(SMOKE[1], blank, b"none"), b"{", SMOKE[3], b""]
    headers: list[dict[str, str]] = [{}, {}, {}, {}, JSON, JSON, EXPLAIN, {"explain": "True", "X-Target": "x"}]
    call(counting, model_dir, rows, headers)
    observed = read_values(counting)
    counts = {name: value for name, value in observed.items() if "_bucket" not in name}
    assert counts.pop("digits_busy_seconds_total") > 0
    assert counts == {
        "digits_requests_total predict 200": 2,
        "digits_requests_total predict 400": 3,  # invalid image, JSON and target
        "digits_requests_total predict 422": 1,
        "digits_requests_total predict_batch 200": 1,
        "digits_requests_total explain 200": 1,
        "digits_predictions_total 7": 2,
        "digits_predictions_total 1": 1,
        "digits_predictions_total 3": 1,
        "digits_errors_total unreadable": 2,
        "digits_errors_total blank": 2,
        "digits_errors_total invalid_request": 2,
        "digits_warnings_total inverted": 1,
        "digits_confidence_count": 4,
        "digits_foreground_ratio_count": 4,
        "digits_stroke_width_pixels_count": 4,
        "digits_image_size_pixels_count": 4,
        "digits_inference_duration_seconds_count": 4,
        "digits_decode_duration_seconds_count": 8,  # two of them failed
        "digits_framing_duration_seconds_count": 6,  # two of them were blank
        "digits_handler_duration_seconds_count": 8,
        "digits_batch_requests_count": 1,
    }
    assert observed["digits_batch_requests_bucket 8.0"] == 1
    assert "digits_image_size_pixels_bucket 24.0" not in observed
    assert observed["digits_image_size_pixels_bucket 32.0"] == 4


def test_values_of_a_batch_are_counted_one_by_one() -> None:
    batch, single = (Histogram("seconds", "", buckets=DURATION_BUCKETS, registry=None) for _ in range(2))
    observations = [*DURATION_BUCKETS, 0.0, 0.003, 0.003, 99.0]
    _observe_all(batch, observations)
    for value in observations:
        single.observe(value)
    [counted], [expected] = batch.collect(), single.collect()
    values_of = [
        [sample.value for sample in metric.samples if "_created" not in sample.name] for metric in (counted, expected)
    ]
    assert values_of[0] == pytest.approx(values_of[1])


def test_probe_is_counted_only_as_a_probe(counting: DigitHandler, model_dir: Path) -> None:
    call(counting, model_dir, [SMOKE[7], b"none"], [{PROBE_HEADER.lower(): "1"}, {PROBE_HEADER: ""}])
    assert read_values(counting) == {"digits_probes_total": 2}


def test_form_field_is_no_probe_header(counting: DigitHandler, model_dir: Path) -> None:
    call(counting, model_dir, [SMOKE[7]], [{PROBE_HEADER: {"filename": "x"}}])  # type: ignore[dict-item]  # as TorchServe passes it
    assert read_values(counting)["digits_predictions_total 7"] == 1


def test_failure_of_metrics_does_not_affect_the_response(
    counting: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(counting.metrics, "record", fail)
    [response] = counting.handle([{"body": SMOKE[7]}], make_context(model_dir, 1))
    assert json.loads(response)["digit"] == 7
    assert "a batch is not counted or logged" in caplog.text


def test_number_is_counted_by_itself(counting: DigitHandler, model_dir: Path) -> None:
    counting.handle([{"body": SMOKE[7]}], make_context(model_dir, 1, [READ]))
    values = read_values(counting)
    names = ("requests_total read_number 200", "numbers_total true", "number_length_count")
    assert [values[f"digits_{name}"] for name in names] == [1, 1, 1]
    assert "digits_predictions_total 7" not in values


def test_metrics_start_at_0_before_the_first_event(counting: DigitHandler) -> None:
    names = {format_labels(sample) for sample in read_samples(counting)}
    assert {f"digits_errors_total {reason}" for reason in REASONS} <= names
    assert {f"digits_predictions_total {digit}" for digit in range(10)} <= names
    assert {"digits_requests_total predict_batch 200", "digits_low_confidence_total", "digits_probes_total"} <= names


def test_every_error_has_a_reason_that_is_counted() -> None:
    errors = [RequestError(400, ""), RequestError(413, ""), DeadlineExceededError(503, ""), InternalError(500, "")]
    errors += [*(ImageError(status, "") for status in (400, 413, 422)), SeveralLinesError([])]
    assert {error.reason for error in errors} == set(REASONS)


def test_log_has_a_line_for_every_request_and_no_image(
    counting: DigitHandler, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "requests.log"
    monkeypatch.setattr(counting, "log", RequestLog(str(path), "info"))
    headers: list[dict[str, str]] = [{"X-Correlation-ID": "mine-1"}, {}, JSON, {PROBE_HEADER: "1"}, {}]
    context = make_context(model_dir, 5, headers)
    context.request_ids = {0: "first", 1: "second", 2: "third", 3: "fourth", 4: "fifth"}
    truncated = encode(Image.new("RGB", (640, 480), "white"), "JPEG")[:-200]
    bodies = (SMOKE[7], b"none", make_batch_body(SMOKE[1], b""), SMOKE[7], truncated)
    counting.handle([{"body": body} for body in bodies], context)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(line.pop("milliseconds") > 0 and line.pop("time").endswith("+00:00") for line in lines)
    assert all(line.pop("version") == VERSION for line in lines)
    assert 0.9 < lines[0].pop("confidence") <= 1
    assert lines[0].pop("correlation_id") == "mine-1"
    good = {"kind": "predict", "status": 200, "digit": 7, "accepted": True, "format": "PNG", "width": 28, "height": 28}
    bad = {"kind": "predict", "status": 400, "reason": "unreadable"}
    batch = {"kind": "predict_batch", "status": 200, "images": 2, "errors": 1}
    assert lines == [
        {"request_id": "first", "bytes": len(SMOKE[7])} | good,
        {"request_id": "second", "bytes": 4} | bad,
        {"request_id": "third", "bytes": len(SMOKE[1])} | batch,
        {"request_id": "fifth", "bytes": len(truncated), "format": "JPEG", "width": 640, "height": 480} | bad,
    ]
