"""Log every request as a line of JSON in the file that all workers share; images and tokens are never logged.

The supervisor sets file and level by environment variables and rotates the file (serving/log_rotation.py).
"""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson

from handler.protocol import REQUEST_LOG_LEVEL, REQUEST_LOG_PATH
from handler.records import ImageRecord, Request


class RequestLog:
    """Logs requests of `level` and above: predictions are info, invalid requests warning, internal errors error."""

    def __init__(self, path: str | None, level: str) -> None:
        self.path = None if level == "off" else path
        self.min_level = 0 if self.path is None else logging.getLevelNamesMapping()[level.upper()]

    @classmethod
    def from_environment(cls) -> "RequestLog":
        return cls(os.environ.get(REQUEST_LOG_PATH), os.environ.get(REQUEST_LOG_LEVEL, "off"))

    def write(self, requests: Sequence[Request], seconds: float, version: str) -> None:
        """Write a line for every request of a batch, which took the handler `seconds`."""
        if self.path is None:
            return
        now, milliseconds = datetime.now(UTC).isoformat(timespec="milliseconds"), round(1000 * seconds, 3)
        common = {"time": now, "version": version, "milliseconds": milliseconds}
        lines = [
            orjson.dumps(common | _describe(request), option=orjson.OPT_APPEND_NEWLINE)
            for request in requests
            if _get_level(request.status) >= self.min_level
        ]
        if lines:
            with suppress(OSError):  # a full disk costs the lines, not the responses
                _append(self.path, b"".join(lines))


def _append(path: str, lines: bytes) -> None:
    """Append in one write, so that workers' lines do not mix; open the file every time, as it may have been renamed."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.write(file, lines)
    finally:
        os.close(file)


def _get_level(status: int) -> int:
    if status < 400:
        return logging.INFO
    return logging.WARNING if status < 500 else logging.ERROR


def _describe(request: Request) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "request_id": request.request_id,
        "kind": request.kind,
        "status": request.status,
        "bytes": sum(len(image.content) for image in request.images),
    }
    if request.correlation_id:
        fields["correlation_id"] = request.correlation_id
    if request.kind == "predict_batch":
        return fields | {
            "images": len(request.images),
            "errors": sum(image.error is not None for image in request.images),
        }
    for image in request.images:  # one; none in a describe request
        fields |= _describe_image(image)
    return fields


def _describe_image(image: ImageRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {"reason": image.error.reason} if image.error else _describe_prediction(image.prediction)
    if image.info:
        fields["format"], fields["width"], fields["height"] = image.info
    return fields


def _describe_prediction(prediction: dict[str, Any]) -> dict[str, Any]:
    return {
        "digit": prediction["digit"],
        "confidence": round(prediction["confidence"], 6),
        "accepted": prediction["accepted"],
    }
