"""What a worker tells Prometheus of its requests and pictures, by version of the model.

The values lie in files of the folder PROMETHEUS_MULTIPROC_DIR, which prometheus_client maps into memory (its
multiprocess mode); the supervisor adds up those of all workers. Without that folder they stay with the worker.
"""

import logging
import os
from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, values

from handler.drift import CONFIDENCE, INK, SIZE, WIDTH
from handler.marks import measure_foreground
from handler.protocol import METRICS_FOLDER, WARNINGS
from handler.records import ImageRecord, Request

SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
REQUESTS = (1, 2, 4, 8, 16)
FILE_BYTES = 1 << 16  # of a file of values, as prometheus_client makes it
REASONS = ("unreadable", "too_large", "blank", "invalid_request", "late", "internal_error")
KINDS = ("digit", "digits", "explanation", "description")


def _choose_storage() -> None:
    """Keep values in files, if there is room on the disk; else in this process: it serves all the same.

    prometheus_client would create the files without room: on a full disk the first value then kills the process.
    """
    if folder := os.environ.get(METRICS_FOLDER):
        try:
            for kind in ("counter", "histogram"):
                with Path(folder, f"{kind}_{os.getpid()}.db").open("ab") as file:
                    os.posix_fallocate(file.fileno(), 0, FILE_BYTES)
        except OSError as error:
            logging.warning("what this worker counts is not shown: %s", error)
            values.ValueClass = values.MutexValue


def _observe(histogram: Histogram, observed: Iterable[float]) -> None:
    for value in observed:
        histogram.observe(value)


class Metrics:
    """Metrics of the worker's version. All values are there, at 0, from the start: a rate sees the first event too.

    Large because every metric is an attribute.
    """

    def __init__(self, version: str) -> None:
        _choose_storage()
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"digits_{name}", text, ["version", *labels], registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float] = SECONDS) -> Histogram:
            return Histogram(f"digits_{name}", text, ["version"], registry=registry, buckets=buckets).labels(version)

        requests = counter("requests", "requests that reached a handler, by kind and status", "kind", "status")
        self.requests = cache(lambda kind, status: requests.labels(version, kind, str(status)))
        predictions = counter("predictions", "pictures that were read, by digit", "digit")
        refusals = counter("refusals", "pictures and requests that were refused, by reason", "reason")
        warnings = counter("warnings", "warnings given with predictions", "warning")
        self.predictions = [predictions.labels(version, str(digit)) for digit in range(10)]
        self.refusals = {reason: refusals.labels(version, reason) for reason in REASONS}
        self.warnings = {warning: warnings.labels(version, warning) for warning in WARNINGS}
        for kind in KINDS:
            self.requests(kind, 200)
        self.rejections = counter("rejections", "predictions that are not accepted").labels(version)
        self.probes = counter("probes", "requests with the header X-Digits-Probe; in no other metric").labels(version)
        self.busy = counter("busy_seconds", "that workers spent on batches").labels(version)
        self.confidence = histogram("confidence", "calibrated, of predictions", CONFIDENCE)
        self.ink = histogram("ink_ratio", "mean of the framed picture, 1 being all ink", INK)
        self.width = histogram("stroke_width_pixels", "in the framed picture of 64x64", WIDTH)
        self.size = histogram("picture_size_pixels", "longer side of the picture as sent", SIZE)
        self.decoding = histogram("decode_seconds", "from a picture's bytes to grey")
        self.framing = histogram("framing_seconds", "from a grey picture to the model's input")
        self.inference = histogram("inference_seconds", "of the model call that a picture shared with others")
        self.handling = histogram("handler_seconds", "of the batch that a request was answered in")
        self.batch = histogram("batch_requests", "requests that a worker got at once", REQUESTS)

    def record(self, requests: Sequence[Request], seconds: float) -> None:
        """Count a batch's requests, which took the handler so many seconds together."""
        if not requests:
            return
        self.busy.inc(seconds)
        self.batch.observe(len(requests))
        _observe(self.handling, [seconds] * len(requests))
        for (kind, status), count in Tally([(each.kind, each.status) for each in requests]).items():
            self.requests(kind, status).inc(count)
        self._record_images([image for each in requests for image in each.images])

    def _record_images(self, images: Sequence[ImageRecord]) -> None:
        _observe(self.decoding, [image.decode_seconds for image in images if image.decode_seconds is not None])
        _observe(self.framing, [image.framing_seconds for image in images if image.framing_seconds is not None])
        for reason, count in Tally([image.error.reason for image in images if image.error]).items():
            self.refusals[reason].inc(count)
        if predicted := [image for image in images if image.framed and not image.error]:
            self._record_predictions(predicted)

    def _record_predictions(self, images: Sequence[ImageRecord]) -> None:
        predictions = [image.prediction for image in images]
        for digit, count in Tally([prediction["digit"] for prediction in predictions]).items():
            self.predictions[digit].inc(count)
        for warning, count in Tally([each for prediction in predictions for each in prediction["warnings"]]).items():
            self.warnings[warning].inc(count)
        self.rejections.inc(sum(not prediction["accepted"] for prediction in predictions))
        _observe(self.confidence, [prediction["confidence"] for prediction in predictions])
        _observe(self.inference, [image.inference_seconds or 0.0 for image in images])
        ratios, widths = measure_foreground(np.asarray([image.framed.frame for image in images if image.framed]))
        _observe(self.ink, ratios)
        _observe(self.width, widths)
        _observe(self.size, [max(image.source[1:]) for image in images if image.source])
