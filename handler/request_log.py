"""A line of JSON for each request, in the file that all workers share: never a picture, never a token.

The supervisor names file and level by the environment, and renames a file that has grown (serving/log_rotation.py).
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
    """Writes requests whose level is at least `level`: answers are info, refusals warning, failures of ours error."""

    def __init__(self, path: str | None, level: str) -> None:
        self.path = None if level == "off" else path
        self.least = 0 if self.path is None else logging.getLevelNamesMapping()[level.upper()]

    @classmethod
    def from_environment(cls) -> "RequestLog":
        return cls(os.environ.get(REQUEST_LOG_PATH), os.environ.get(REQUEST_LOG_LEVEL, "off"))

    def write(self, requests: Sequence[Request], seconds: float, version: str) -> None:
        """Write a line for each request of a batch, which took the handler so many seconds."""
        if self.path is None:
            return
        now, milliseconds = datetime.now(UTC).isoformat(timespec="milliseconds"), round(1000 * seconds, 3)
        common = {"time": now, "version": version, "milliseconds": milliseconds}
        lines = [
            orjson.dumps(common | _describe(request), option=orjson.OPT_APPEND_NEWLINE)
            for request in requests
            if _level(request.status) >= self.least
        ]
        if lines:
            with suppress(OSError):  # a full disk costs the lines, not the responses
                _append(self.path, b"".join(lines))


def _append(path: str, lines: bytes) -> None:
    """In one piece, so that no two workers' lines mix; opened each time, as the file may have been renamed."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.write(file, lines)
    finally:
        os.close(file)


def _level(status: int) -> int:
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
    if request.kind == "digits":
        return fields | {
            "pictures": len(request.images),
            "refused": sum(image.error is not None for image in request.images),
        }
    for image in request.images:  # one, or none of a description
        fields |= _describe_image(image)
    return fields


def _describe_image(image: ImageRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {"reason": image.error.reason} if image.error else _describe_prediction(image.prediction)
    if image.source:
        fields["format"], fields["width"], fields["height"] = image.source
    return fields


def _describe_prediction(prediction: dict[str, Any]) -> dict[str, Any]:
    return {
        "digit": prediction["digit"],
        "confidence": round(prediction["confidence"], 6),
        "accepted": prediction["accepted"],
    }
