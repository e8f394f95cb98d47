"""TorchServe's entry point: parse, decode, frame, classify, respond, record. Exactly one class, as TorchServe wants."""

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
from handler.decoding import GrayImage, Source
from handler.explanation import compute_attribution
from handler.metrics import Metrics
from handler.model_metadata import describe_model
from handler.preprocessing import (
    FramedImage,
    ImageError,
    frame_gray_with_warnings,
    frame_with_warnings,
    load_plain_png,
    load_with_pillow,
)
from handler.protocol import CORRELATION_HEADER
from handler.records import ImageRecord, InternalError, LateError, Request
from handler.request_log import RequestLog
from handler.request_parser import Row, parse_request
from handler.time_limit import CpuLimitError, run_with_cpu_limit

PICTURE_SECONDS = 5.0  # of CPU, to decode one image; the slowest of 50 million pixels that are no attack take 2
# To read the images of a batch; those of batch requests share theirs. Clients wait for 10 s, TorchServe for 60.
BULK_SECONDS, BATCH_SECONDS = 3.0, 30.0
SEQUENCE_HEADERS = {f"ts_request_sequence_{part}" for part in ("id", "start", "end")}  # of gRPC's StreamPredictions2


class DigitHandler:
    """Answers a batch of requests; an invalid image gets its own error and leaves the others unaffected."""

    def initialize(self, context: Any) -> None:
        """Load and warm up the archive's scripted model."""
        torch.set_num_threads(1)  # each worker has one core; more threads only fight each other
        cv2.setNumThreads(1)
        folder = Path(context.system_properties["model_dir"])
        model = context.manifest["model"]
        scripted, record = folder / model["serializedFile"], folder / "model.json"
        self.scripted = torch.jit.load(str(scripted), map_location="cpu").eval()  # for explanations: differentiable
        self.classifier = Classifier(scripted, record, model["modelVersion"])
        smoke = {path.stem: path.read_bytes() for path in sorted((folder / "handler" / "smoke").glob("*.png"))}
        self.description = describe_model(self.classifier.version, json.loads(record.read_text()), smoke)
        self.classifier.warm_up(
            [frame_with_warnings(image) for image in smoke.values()], context.system_properties["batch_size"]
        )
        self.metrics, self.log = Metrics(self.classifier.version), RequestLog.from_environment()  # last: it has loaded
        logging.getLogger().setLevel(logging.WARNING)  # TorchServe's worker logs a line for every batch

    def handle(self, rows: Sequence[Row], context: Any) -> list[bytes]:
        """Return one response for each row, in order; set the status and content type of each."""
        started = time.perf_counter()
        requests = [parse_request(row, context.get_all_request_header(index)) for index, row in enumerate(rows)]
        for image, deadline in _iterate_in_turn(requests):
            _decode_and_frame(image, deadline)
        self._classify([image for request in requests for image in request.images if image.framed])
        for index, request in enumerate(requests):
            self._respond(request)
            _set_response(context, index, request)
        self._record(requests, time.perf_counter() - started)
        return [request.body.encode() for request in requests]  # bytes: TorchServe would indent a dict

    def _classify(self, images: list[ImageRecord]) -> None:
        for start in range(0, len(images), MODEL_BATCH_SIZE):
            group = images[start : start + MODEL_BATCH_SIZE]
            started = time.perf_counter()
            predictions = self.classifier.predict([image.framed for image in group if image.framed])
            seconds = time.perf_counter() - started
            for image, prediction in zip(group, predictions, strict=True):
                image.prediction, image.inference_seconds = prediction, seconds

    def _respond(self, request: Request) -> None:
        """Fill in the request's status, content type and body."""
        if request.kind == "description":
            request.body = json.dumps(self.description)
            return
        if request.kind == "digits":
            request.body = json.dumps({"predictions": [image.response for image in request.images]})
            return
        [image] = request.images
        response = image.response
        if request.kind == "explanation" and image.framed:
            response = self._explain(image, image.framed.frame, request.target)
        if image.error:
            request.status = image.error.status
        elif request.plain:
            request.content_type, request.body = "text/plain", str(image.prediction["digit"])
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

    def _record(self, requests: list[Request], seconds: float) -> None:
        """Count and log the requests that are not probes."""
        try:
            self.metrics.probes.inc(sum(request.is_probe for request in requests))
            counted = [request for request in requests if not request.is_probe]
            self.metrics.record(counted, seconds)
            self.log.write(counted, seconds, self.classifier.version)
        except Exception:  # out of memory, for instance: the responses are there
            logging.exception("a batch is not counted or logged")


def _iterate_in_turn(requests: list[Request]) -> Iterator[tuple[ImageRecord, float]]:
    """Yield images with their deadlines: every request's first image, then their second ones, and so on.

    So a request with few images does not wait for one with many.
    """
    now = time.monotonic()
    limits = {"digits": now + BULK_SECONDS}
    for turn in zip_longest(*(request.images for request in requests)):
        for request, image in zip(requests, turn, strict=True):
            if image is not None:
                yield image, limits.get(request.kind, now + BATCH_SECONDS)


def _decode_and_frame(image: ImageRecord, deadline: float) -> None:
    """Fill in the image's frame, or its error, whatever goes wrong."""
    if image.error:
        return
    if time.monotonic() > deadline:
        message = "not read: the images before it used up the batch's time; send it again, fewer at a time"
        image.error = LateError(503, message)
        return
    try:
        image.framed = _frame(image, _decode(image))
    except ImageError as error:
        image.source = image.source or error.source
        image.error = error.without_frames()
    except CpuLimitError:
        message = f"the picture takes over {PICTURE_SECONDS:g} s to read; send it smaller or as PNG"
        image.error = ImageError(413, message)
    except Exception as error:
        image.error = InternalError.from_exception(error)


def _decode(image: ImageRecord) -> GrayImage:
    started = time.perf_counter()
    try:
        gray, image.source = _decode_within_limit(image.content)
    finally:
        image.decode_seconds = time.perf_counter() - started
    return gray


def _decode_within_limit(content: bytes) -> tuple[GrayImage, Source]:
    """Decode under a limit of CPU time; plain PNGs without, which would cost half as much again and is never slow."""
    return load_plain_png(content) or run_with_cpu_limit(PICTURE_SECONDS, load_with_pillow, content)


def _frame(image: ImageRecord, gray: GrayImage) -> FramedImage:
    started = time.perf_counter()
    try:
        return frame_gray_with_warnings(gray)
    finally:
        image.framing_seconds = time.perf_counter() - started


def _set_response(context: Any, index: int, request: Request) -> None:
    request.request_id = context.get_request_id(index)
    context.set_response_status(request.status, HTTPStatus(request.status).phrase, index)
    context.set_response_content_type(index, request.content_type)
    _protect_worker(context, index)
    if request.correlation_id:
        context.set_response_header(index, CORRELATION_HEADER, request.correlation_id)


def _protect_worker(context: Any, index: int) -> None:
    """Keep TorchServe from ending the worker after a streaming call by gRPC; those have no HTTP headers."""
    headers = {name for name, value in context.get_all_request_header(index).items() if isinstance(value, str)}
    if not headers:
        context.set_response_header(index, "ts_stream_next", "false")  # StreamPredictions fails without it
    elif headers <= SEQUENCE_HEADERS:
        context.request_ids.pop(index)  # StreamPredictions2 has failed already; a response would be one too many
