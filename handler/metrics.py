"""What a worker tells Prometheus of its requests and pictures, by version of the model.

The values lie in files of the folder PROMETHEUS_MULTIPROC_DIR, which prometheus_client maps into memory (its
multiprocess mode); the supervisor adds up those of all workers. Without that folder they stay with the worker.
"""

import logging
import os
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, values

from handler.cells import Cell
from handler.marks import ink_and_widths
from handler.preprocessing import WARNINGS, Framed, ImageError
from handler.room import take_room
from handler.seen import Seen, Served

SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
REQUESTS = (1, 2, 4, 8, 16)
REASONS = ("unreadable", "too_large", "blank", "invalid_request", "late", "internal_error")
KINDS = ("digit", "digits", "explanation", "description")
# Of what is compared with the reference in model.json (training/reference.py): fine where MNIST's pictures are.
CONFIDENCE = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1.0)
INK = (0.05, 0.07, 0.08, 0.09, 0.1, 0.11, 0.12, 0.13, 0.14, 0.16, 0.18, 0.2, 0.25, 0.3)
WIDTH = (2.0, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 8.0, 9.0, 10.0, 12.0, 16.0)
SIZE = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)


def _prepare() -> None:
    """Values in files, if there is room on the disk; else they stay with the worker: it serves all the same."""
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        try:
            take_room(Path(folder), os.getpid())
            values.ValueClass = Cell
        except OSError as error:
            logging.warning("what this worker counts is not shown: %s", error)
            values.ValueClass = values.MutexValue


class _Histogram(Histogram):
    """One that takes a batch's values at once, and looks for each value's bucket by halves."""

    def observe_all(self, values: Sequence[float]) -> None:
        if values:
            self._sum.inc(sum(values))
            for value in values:
                self._buckets[bisect_left(self._upper_bounds, value)].inc(1)


class Metrics:
    """Of the worker's version. All values are there, at 0, from the start: a rate sees the first event too."""

    def __init__(self, version: str) -> None:
        _prepare()
        self.registry = registry = CollectorRegistry()

        def counter(name: str, told: str, *labels: str) -> Counter:
            return Counter(f"digits_{name}", told, ["version", *labels], registry=registry)

        def histogram(name: str, told: str, buckets: Sequence[float] = SECONDS) -> _Histogram:
            made = _Histogram(f"digits_{name}", told, ["version"], registry=registry, buckets=buckets)
            child: _Histogram = made.labels(version)
            return child

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

    def record(self, served: Sequence[Served], seconds: float) -> None:
        """Counts a batch's requests, which took the handler so long together."""
        if not served:
            return
        self.busy.inc(seconds)
        self.batch.observe_all([len(served)])
        self.handling.observe_all([seconds] * len(served))
        for (kind, status), count in Tally([(each.kind, each.status) for each in served]).items():
            self.requests(kind, status).inc(count)
        self._pictures([seen for each in served for seen in each.pictures])

    def _pictures(self, pictures: Sequence[Seen]) -> None:
        self.decoding.observe_all([seen.decoding for seen in pictures if seen.decoding is not None])
        self.framing.observe_all([seen.framing for seen in pictures if seen.framing is not None])
        refused = Tally([seen.outcome.reason for seen in pictures if isinstance(seen.outcome, ImageError)])
        for reason, count in refused.items():
            self.refusals[reason].inc(count)
        self._predictions([(seen, seen.outcome) for seen in pictures if isinstance(seen.outcome, Framed)])

    def _predictions(self, read: Sequence[tuple[Seen, Framed]]) -> None:
        told = [seen.told for seen, _ in read]
        for digit, count in Tally([each["digit"] for each in told]).items():
            self.predictions[digit].inc(count)
        for warning, count in Tally([warning for _, framed in read for warning in framed.warnings]).items():
            self.warnings[warning].inc(count)
        if rejected := sum(not each["accepted"] for each in told):
            self.rejections.inc(rejected)
        self.confidence.observe_all([each["confidence"] for each in told])
        self.inference.observe_all([seen.inference or 0.0 for seen, _ in read])
        if read:
            ratios, widths = ink_and_widths(np.asarray([framed.frame for _, framed in read]))
            self.ink.observe_all(ratios)
            self.width.observe_all(widths)
        self.size.observe_all([max(seen.source[1:]) for seen, _ in read if seen.source])
