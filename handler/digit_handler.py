"""TorchServe's entry point: parse, decode, frame, classify, respond, record. TorchServe requires exactly one class."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from handler.decoding import GrayImage
from handler.explanation import compute_attribution
from handler.image_reader import ImageReader
from handler.metrics import Metrics
from handler.model_metadata import describe_model
from handler.number_reader import SEGMENT_MODEL
from handler.protocol import CORRELATION_HEADER
from handler.records import ImageRecord, InternalError, Request
from handler.request_log import RequestLog
from handler.request_parser import Row, parse_request

BATCH_SECONDS = 30.0  # to decode and frame the images of TorchServe's batch; TorchServe waits for 60
BATCH_REQUESTS_SECONDS = 3.0  # the same, for the images of all predict_batch requests in it; clients wait for 10
SEQUENCE_HEADERS = {f"ts_request_sequence_{part}" for part in ("id", "start", "end")}  # gRPC StreamPredictions2


class DigitHandler:
    """Handles TorchServe's batches of requests; an invalid image gets its own error, the others are unaffected."""

    def initialize(self, context: Any) -> None:
        """Load and warm up the archive's scripted model."""
        torch.set_num_threads(1)  # every worker has one core; more threads would only compete for it
        folder = Path(context.system_properties["model_dir"])
        model = context.manifest["model"]
        scripted, record_path = folder / model["serializedFile"], folder / "model.json"
        self.scripted = torch.jit.load(str(scripted), map_location="cpu").eval()  # for explanations: differentiable
        self.reader = ImageReader(scripted, record_path, folder / "handler" / SEGMENT_MODEL, model["modelVersion"])
        self.version = model["modelVersion"]
        smoke = {path.stem: path.read_bytes() for path in sorted((folder / "handler" / "smoke").glob("*.png"))}
        self.description = describe_model(self.version, json.loads(record_path.read_text()), smoke)
        self.reader.warm_up(smoke.values(), context.system_properties["batch_size"])
        self.metrics = Metrics(self.version)  # last, once the version is loaded
        self.log = RequestLog.from_environment()
        logging.getLogger().setLevel(logging.WARNING)  # TorchServe's worker logs a line for every batch

    def handle(self, rows: Sequence[Row], context: Any) -> list[bytes]:
        """Return one response per row, in order; set their statuses and content types."""
        started = time.perf_counter()
        requests = [parse_request(row, context.get_all_request_header(index)) for index, row in enumerate(rows)]
        for image, deadline in _interleave_images(requests):
            self.reader.decode_and_frame(image, deadline)
        self.reader.classify(image for request in requests for image in request.images)
        for index, request in enumerate(requests):
            self._respond(request)
            _set_response(context, index, request)
        self._record_batch(requests, time.perf_counter() - started)
        return [request.body.encode() for request in requests]  # bytes, as TorchServe would indent a dict

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
            values = compute_attribution(self.scripted, self.reader.classifier.calibration, frame, target)
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
            self.log.write(counted, seconds, self.version)
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
