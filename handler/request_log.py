"""A line of JSON for each request, in the file that all workers share: never a picture, never a token.

The supervisor names file and level by the environment, and renames the file when it has grown (serving/rotation.py).
"""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import Any

import orjson

from handler.environment import LOG_LEVEL, LOG_PATH
from handler.preprocessing import ImageError
from handler.seen import Seen, Served

# Written at once: fewer bytes than the 8 KiB that a file passes on in one piece, so that no two workers' lines mix.
LINES = 16


class _File(WatchedFileHandler):
    """Of a file that is begun anew when it was renamed."""

    def emit(self, record: logging.LogRecord) -> None:
        """A full disk costs the lines, not the answers."""
        with suppress(OSError):
            super().emit(record)

    def handleError(self, _: logging.LogRecord) -> None:  # noqa: N802 - logging calls it so
        """No traceback for each batch."""


class RequestLog:
    """Writes requests whose level is at least `level`: answers are info, refusals warning, failures of ours error."""

    def __init__(self, path: str | None, level: str) -> None:
        self.file = _File(path, encoding="utf-8", delay=True) if path and level != "off" else None
        self.least = 0 if self.file is None else logging.getLevelNamesMapping()[level.upper()]

    @classmethod
    def by_environment(cls) -> "RequestLog":
        return cls(os.environ.get(LOG_PATH), os.environ.get(LOG_LEVEL, "info"))

    def write(self, served: Sequence[Served], seconds: float, version: str) -> None:
        """Lines for a batch's requests, which took the handler so long together."""
        if self.file is None:
            return
        common = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "version": version,
            "milliseconds": round(1000 * seconds, 3),
        }
        lines = [orjson.dumps(common | _told(each)).decode() for each in served if _level(each.status) >= self.least]
        for start in range(0, len(lines), LINES):
            self.file.emit(logging.makeLogRecord({"msg": "\n".join(lines[start : start + LINES])}))


def _level(status: int) -> int:
    if status < 400:
        return logging.INFO
    return logging.WARNING if status < 500 else logging.ERROR


def _told(served: Served) -> dict[str, Any]:
    told: dict[str, Any] = {
        "request_id": served.request_id,
        "kind": served.kind,
        "status": served.status,
        "bytes": served.size,
    }
    if served.correlation:
        told["correlation_id"] = served.correlation
    if served.kind == "digits":
        told["pictures"] = len(served.pictures)
        told["refused"] = sum(isinstance(seen.outcome, ImageError) for seen in served.pictures)
    else:
        for seen in served.pictures:  # one, or none of a description
            _add_picture(told, seen)
    return told


def _add_picture(told: dict[str, Any], seen: Seen) -> None:
    if isinstance(seen.outcome, ImageError):
        told["reason"] = seen.outcome.reason
    else:
        told["digit"] = seen.told["digit"]
        told["confidence"] = round(seen.told["confidence"], 6)
        told["accepted"] = seen.told["accepted"]
    if seen.source:
        told["format"], told["width"], told["height"] = seen.source
