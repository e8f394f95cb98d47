"""A line of JSON for each request, in the file that all workers share: never a picture, never a token.

The supervisor names file and level by the environment, and renames the file when it has grown (serving/rotation.py).
"""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson

from handler.environment import LOG_LEVEL, LOG_PATH
from handler.preprocessing import ImageError
from handler.seen import Seen, Served


class RequestLog:
    """Writes requests whose level is at least `level`: answers are info, refusals warning, failures of ours error."""

    def __init__(self, path: str | None, level: str) -> None:
        self.path = None if level == "off" else path
        self.least = 0 if self.path is None else logging.getLevelNamesMapping()[level.upper()]

    @classmethod
    def by_environment(cls) -> "RequestLog":
        return cls(os.environ.get(LOG_PATH), os.environ.get(LOG_LEVEL, "off"))

    def write(self, served: Sequence[Served], seconds: float, version: str) -> None:
        """Lines for a batch's requests, which took the handler so long together."""
        if self.path is None:
            return
        now, milliseconds = datetime.now(UTC).isoformat(timespec="milliseconds"), round(1000 * seconds, 3)
        common = {"time": now, "version": version, "milliseconds": milliseconds}
        lines = [
            orjson.dumps(_told(common, each), option=orjson.OPT_APPEND_NEWLINE)
            for each in served
            if _level(each.status) >= self.least
        ]
        if lines:
            with suppress(OSError):  # a full disk costs the lines, not the answers
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


def _told(common: dict[str, Any], served: Served) -> dict[str, Any]:
    told = {
        **common,
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
