"""TorchServe's entry point: parse, decode, frame, classify, respond, record. TorchServe requires exactly one class."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from itertools import zip_longest
from pathlib import Path
from typing import Any

import cv2
import torch

from handler.classifier import MODEL_BATCH_SIZE, Classifier
from handler.decoding import GrayImage, ImageError
from handler.explanation import compute_attribution
from handler.metrics import Metrics
from handler.model_metadata import describe_model
from handler.number_reader import NumberReader
from handler.preprocessing import (
    frame_gray_with_warnings,
    frame_with_warnings,
    load_gray,
    load_plain_png,
    load_with_pillow,
    segment_number,
)
from handler.protocol import CORRELATION_HEADER
from handler.records import DeadlineExceededError, ImageRecord, InternalError, Request
from handler.request_log import RequestLog
from handler.request_parser import Row, parse_request
from handler.time_limit import CpuLimitError, run_with_cpu_limit

IMAGE_CPU_SECONDS = 5.0  # to decode one image; the slowest intact images of 50 million pixels take 2
BATCH_SECONDS = 30.0  # to decode and frame the images of TorchServe's batch; TorchServe waits for 60
BATCH_REQUESTS_SECONDS = 3.0  # the same, for the images of all predict_batch requests in it; clients wait for 10
SEQUENCE_HEADERS = {f"ts_request_sequence_{part}" for part in ("id", "start", "end")}  # gRPC StreamPredictions2


class DigitHandler:
    """Handles TorchServe's batches of requests; an invalid image gets its own error, the others are unaffected."""

    def initialize(self, context: Any) -> None:
        """Load and warm up the archive's scripted model."""
        torch.set_num_threads(1)  # every worker has one core; more threads would only compete for it
        cv2.setNumThreads(1)
        folder = Path(context.system_properties["model_dir"])
        model = context.manifest["model"]
        scripted, record_path = folder / model["serializedFile"], folder / "model.json"
        self.scripted = torch.jit.load(str(scripted), map_location="cpu").eval()  # for explanations: differentiable
        self.classifier = Classifier(scripted, record_path, model["modelVersion"])
        smoke = {path.stem: path.read_bytes() for path in sorted((folder / "handler" / "smoke").glob("*.png"))}
        self.description = describe_model(self.classifier.version, json.loads(record_path.read_text()), smoke)
        self.reader = NumberReader.load(self.classifier, folder / "handler")
        framed = [frame_with_warnings(image) for image in smoke.values()]
        self.classifier.warm_up(framed, context.system_properties["batch_size"])
        for image in smoke.values():
            self.reader.read(segment_number(*load_gray(image)))
        self.metrics = Metrics(self.classifier.version)  # last, once the version is loaded
        self.log = RequestLog.from_environment()
        logging.getLogger().setLevel(logging.WARNING)  # TorchServe's worker logs a line for every batch

    def handle(self, rows: Sequence[Row], context: Any) -> list[bytes]:
        """Return one response per row, in order; set their statuses and content types."""
        started = time.perf_counter()
        requests = [parse_request(row, context.get_all_request_header(index)) for index, row in enumerate(rows)]
        for image, deadline in _interleave_images(requests):
            _decode_and_frame(image, deadline, self.reader)
        self._classify([image for request in requests for image in request.images if image.framed])
        for index, request in enumerate(requests):
            self._respond(request)
            _set_response(context, index, request)
        self._record_batch(requests, time.perf_counter() - started)
        return [request.body.encode() for request in requests]  # bytes, as TorchServe would indent a dict

    def _classify(self, images: list[ImageRecord]) -> None:
        for start in range(0, len(images), MODEL_BATCH_SIZE):
            batch = images[start : start + MODEL_BATCH_SIZE]
            started = time.perf_counter()
            predictions = self.classifier.predict([image.framed for image in batch if image.framed])
            seconds = time.perf_counter() - started
            for image, prediction in zip(batch, predictions, strict=True):
                image.prediction, image.inference_seconds = prediction, seconds

    def _respond(self, request: Request) -> None:
        """Fill in the request's status, content type and body."""
        if request.kind == "describe":
            request.body = json.dumps(self.description)
            return
        if request.kind == "predict_batch":
            request.body = json.dumps({"predictions": [image.response for image in request.images]})
            return
        [image] = request.images
        response = image.response
        if request.kind == "explain" and image.framed:
            response = self._explain(image, image.framed.frame, request.target)
        if image.error:
            request.status = image.error.status
        elif request.plain:
            field = "number" if image.reads_number else "digit"
            request.content_type, request.body = "text/plain", str(image.prediction[field])
            return
        request.body = json.dumps(response)

    def _explain(self, image: ImageRecord, frame: GrayImage, target: int | None) -> dict[str, Any]:
        digit = image.prediction["digit"]
        target = digit if target is None else target
        try:
            values = compute_attribution(self.scripted, self.classifier.calibration, frame, target)
        except Exception as error:
            image.error = InternalError.from_exception(error)
            return image.response
        return {"digit": digit, "target": target, "attribution": values.tolist(), "framed": frame.tolist()}

    def _record_batch(self, requests: list[Request], seconds: float) -> None:
        """Count and log the requests that are not probes."""
        try:
            self.metrics.probes.inc(sum(request.is_probe for request in requests))
            counted = [request for request in requests if not request.is_probe]
            self.metrics.record(counted, seconds)
            self.log.write(counted, seconds, self.classifier.version)
        except Exception:  # such as MemoryError; the responses are complete
            logging.exception("a batch is not counted or logged")


def _interleave_images(requests: list[Request]) -> Iterator[tuple[ImageRecord, float]]:
    """Yield all requests' first images with their deadlines, then the second ones: few do not wait for many."""
    now = time.monotonic()
    deadlines = {"predict_batch": now + BATCH_REQUESTS_SECONDS}
    for images in zip_longest(*(request.images for request in requests)):
        for request, image in zip(requests, images, strict=True):
            if image is not None:
                yield image, deadlines.get(request.kind, now + BATCH_SECONDS)


def _decode_and_frame(image: ImageRecord, deadline: float, reader: NumberReader) -> None:
    """Fill in the image's frame, or the number that it shows, or its error if anything goes wrong."""
    if image.error:
        return
    if time.monotonic() > deadline:
        message = "not read: the images before it used up the batch's time; send it again, fewer at a time"
        image.error = DeadlineExceededError(503, message)
        return
    try:
        _decode_and_frame_timed(image, reader)
    except ImageError as error:
        image.info = image.info or error.info
        image.error = error.drop_traceback()
    except CpuLimitError:
        message = f"the image takes over {IMAGE_CPU_SECONDS:g} s to read; send it smaller or as PNG"
        image.error = ImageError(413, message)
    except Exception as error:
        image.error = InternalError.from_exception(error)


def _decode_and_frame_timed(image: ImageRecord, reader: NumberReader) -> None:
    started = time.perf_counter()
    try:
        plain = load_plain_png(image.content)  # without the limit, which would add half to its time
        gray, image.info = plain or run_with_cpu_limit(IMAGE_CPU_SECONDS, load_with_pillow, image.content)
    finally:
        image.decode_seconds = time.perf_counter() - started
    started = time.perf_counter()
    number = None
    try:
        if image.reads_number:
            number = segment_number(gray, image.info)
        else:
            image.framed = frame_gray_with_warnings(gray)
    finally:
        image.framing_seconds = time.perf_counter() - started
    if number:
        started = time.perf_counter()
        image.prediction = reader.read(number)
        image.inference_seconds = time.perf_counter() - started


def _set_response(context: Any, index: int, request: Request) -> None:
    request.request_id = context.get_request_id(index)
    context.set_response_status(request.status, HTTPStatus(request.status).phrase, index)
    context.set_response_content_type(index, request.content_type)
    _handle_streaming_grpc(context, index)
    if request.correlation_id:
        context.set_response_header(index, CORRELATION_HEADER, request.correlation_id)


def _handle_streaming_grpc(context: Any, index: int) -> None:
    """Keep TorchServe from ending the worker after a streaming gRPC call; those have no HTTP headers."""
    headers = {name for name, value in context.get_all_request_header(index).items() if isinstance(value, str)}
    if not headers:
        context.set_response_header(index, "ts_stream_next", "false")  # StreamPredictions fails without it
    elif headers <= SEQUENCE_HEADERS:
        context.request_ids.pop(index)  # TorchServe has already answered this call with an error; drop its response
