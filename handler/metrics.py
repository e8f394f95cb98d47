"""Count a worker's requests and images for Prometheus, by version of the model.

prometheus_client's multiprocess mode keeps the values in memory-mapped files in PROMETHEUS_MULTIPROC_DIR; the
supervisor sums those of all workers. Without that folder they stay in the worker.
"""

import logging
import os
from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, values

from handler.drift import CONFIDENCE_BINS, FOREGROUND_BINS, IMAGE_SIZE_BINS, STROKE_WIDTH_BINS
from handler.geometry import measure_foreground
from handler.protocol import METRICS_FOLDER, WARNINGS
from handler.records import KINDS, ImageRecord, Request

DURATION_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # seconds
BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16)  # requests
VALUE_FILE_BYTES = 1 << 16  # initial size of prometheus_client's files
REASONS = ("unreadable", "too_large", "blank", "several_lines", "invalid_request", "late", "internal_error")
LENGTH_BUCKETS = (1, 2, 3, 4, 5, 6, 8, 10, 16, 32)  # digits


def _choose_storage() -> None:
    """Keep values in files only if the disk has room: on a full one, prometheus_client would kill the process."""
    if folder := os.environ.get(METRICS_FOLDER):
        try:
            for kind in ("counter", "histogram"):
                with Path(folder, f"{kind}_{os.getpid()}.db").open("ab") as file:
                    os.posix_fallocate(file.fileno(), 0, VALUE_FILE_BYTES)
        except OSError as error:
            logging.warning("the metrics of this worker are not exported: %s", error)
            values.ValueClass = values.MutexValue


def _observe_all(histogram: Histogram, observations: Iterable[float]) -> None:
    for value in observations:
        histogram.observe(value)


class Metrics:
    """The metrics of the worker's version, 0 before the first event. Large because every metric is an attribute."""

    def __init__(self, version: str) -> None:
        _choose_storage()
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"digits_{name}", text, ["version", *labels], registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float] = DURATION_BUCKETS) -> Histogram:
            return Histogram(f"digits_{name}", text, ["version"], registry=registry, buckets=buckets).labels(version)

        requests = counter("requests", "requests that reached a handler, by kind and status", "kind", "status")
        self.requests = cache(lambda kind, status: requests.labels(version, kind, str(status)))
        predictions = counter("predictions", "images with a prediction, by digit", "digit")
        errors = counter("errors", "images and requests that got an error, by reason", "reason")
        warnings = counter("warnings", "warnings in predictions", "warning")
        self.predictions = [predictions.labels(version, str(digit)) for digit in range(10)]
        self.errors = {reason: errors.labels(version, reason) for reason in REASONS}
        self.warnings = {warning: warnings.labels(version, warning) for warning in WARNINGS}
        for kind in KINDS:
            self.requests(kind, 200)
        self.low_confidence = counter("low_confidence", "rejected predictions").labels(version)
        numbers = counter("numbers", "images with a read number, accepted or not", "accepted")
        self.numbers = {accepted: numbers.labels(version, str(accepted).lower()) for accepted in (True, False)}
        self.number_length = histogram("number_length", "digits of read numbers", LENGTH_BUCKETS)
        self.probes = counter("probes", "requests with the header X-Digits-Probe; in no other metric").labels(version)
        self.busy = counter("busy_seconds", "seconds that workers spent on batches").labels(version)
        self.confidence = histogram("confidence", "calibrated confidence of predictions", CONFIDENCE_BINS)
        self.foreground = histogram("foreground_ratio", "mean of the frame, 1 if all is foreground", FOREGROUND_BINS)
        self.width = histogram("stroke_width_pixels", "stroke width in the frame of 64x64", STROKE_WIDTH_BINS)
        self.size = histogram("image_size_pixels", "longer side of the image as sent", IMAGE_SIZE_BINS)
        self.decoding = histogram("decode_duration_seconds", "time to decode an image to grayscale")
        self.framing = histogram("framing_duration_seconds", "time to frame a grayscale image")
        self.inference = histogram("inference_duration_seconds", "time of the model call, which other images may share")
        self.handling = histogram("handler_duration_seconds", "time the handler took for the request's batch")
        self.batch = histogram("batch_requests", "requests in a batch", BATCH_SIZE_BUCKETS)

    def record(self, requests: Sequence[Request], seconds: float) -> None:
        """Count a batch's requests, which took the handler `seconds` together."""
        if not requests:
            return
        self.busy.inc(seconds)
        self.batch.observe(len(requests))
        _observe_all(self.handling, [seconds] * len(requests))
        for (kind, status), count in Tally([(request.kind, request.status) for request in requests]).items():
            self.requests(kind, status).inc(count)
        self.record_images([image for request in requests for image in request.images])

    def record_images(self, images: Sequence[ImageRecord]) -> None:
        """Count images, apart from the requests that they came in."""
        _observe_all(self.decoding, [image.decode_seconds for image in images if image.decode_seconds is not None])
        _observe_all(self.framing, [image.framing_seconds for image in images if image.framing_seconds is not None])
        for reason, count in Tally([image.error.reason for image in images if image.error]).items():
            self.errors[reason].inc(count)
        for image in images:
            if image.reads_number and not image.error:
                self._record_number(image)
        if predicted := [image for image in images if image.framed and not image.error]:
            self._record_predictions(predicted)

    def _record_number(self, image: ImageRecord) -> None:
        self.numbers[image.prediction["accepted"]].inc()
        self.number_length.observe(len(image.prediction["digits"]))
        self.inference.observe(image.inference_seconds or 0.0)
        for name in image.prediction["warnings"]:
            self.warnings[name].inc()

    def _record_predictions(self, images: Sequence[ImageRecord]) -> None:
        predictions = [image.prediction for image in images]
        for digit, count in Tally([prediction["digit"] for prediction in predictions]).items():
            self.predictions[digit].inc(count)
        for warning, count in Tally([name for prediction in predictions for name in prediction["warnings"]]).items():
            self.warnings[warning].inc(count)
        self.low_confidence.inc(sum(not prediction["accepted"] for prediction in predictions))
        _observe_all(self.confidence, [prediction["confidence"] for prediction in predictions])
        _observe_all(self.inference, [image.inference_seconds or 0.0 for image in images])
        ratios, widths = measure_foreground(np.asarray([image.framed.frame for image in images if image.framed]))
        _observe_all(self.foreground, ratios)
        _observe_all(self.width, widths)
        _observe_all(self.size, [max(image.info[1:]) for image in images if image.info])
