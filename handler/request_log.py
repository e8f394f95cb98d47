"""Log requests as lines of JSON, never images or tokens, in a file that serving/log_rotation.py rotates."""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
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
    with Path(path).open("ab", buffering=0) as file:
        file.write(lines)


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
        errors = sum(image.error is not None for image in request.images)
        return fields | {"images": len(request.images), "errors": errors}
    for image in request.images:  # one; none in a describe request
        fields |= _describe_image(image)
    return fields


def _describe_image(image: ImageRecord) -> dict[str, Any]:
    if image.error:
        fields: dict[str, Any] = {"reason": image.error.reason}
    else:
        kind = "number" if image.reads_number else "digit"
        fields = {name: image.prediction[name] for name in (kind, "confidence", "accepted")}
        fields["confidence"] = round(fields["confidence"], 6)
    if image.info:
        fields["format"], fields["width"], fields["height"] = image.info
    return fields
