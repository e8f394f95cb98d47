"""Constants that client, supervisor and workers share, such as headers and limits, and the parsing of headers.

Imports the standard library alone. digits_client copies these constants, as its wheel does not contain the handler.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

CORRELATION_HEADER = "X-Correlation-ID"  # echoed, so that a client can match response and request
PROBE_HEADER = "X-Digits-Probe"  # a request with it, whatever its value, only checks the service; counted separately
REQUEST_LOG_PATH, REQUEST_LOG_LEVEL = "DIGITS_REQUEST_LOG", "DIGITS_REQUEST_LOG_LEVEL"  # environment of workers
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # environment of workers, defined by prometheus_client
SEVERAL_MARKS = "several_marks"  # an image with this warning is rejected, whatever its score
UNREAD_MARKS = "unread_marks"  # a number with this warning is rejected: a part of its image belongs to no digit
# In predictions:
WARNINGS = ("inverted", SEVERAL_MARKS, "faint", "touches_border", "low_resolution", "lines_removed", UNREAD_MARKS)
READ_HEADER, NUMBER = "X-Digits-Read", "number"  # a request with this header and value reads a number, not a digit
MAX_NUMBER_DIGITS = 32
MAX_INSTANCES = 256  # images in a batch request

_CORRELATION_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CORRELATION, _PROBE = CORRELATION_HEADER.lower(), PROBE_HEADER.lower()


class RequestHeaders(NamedTuple):
    """The parsed headers of a request; `correlation_id` is None if it is missing or invalid."""

    correlation_id: str | None
    is_probe: bool


def parse_headers(headers: Mapping[str, Any]) -> RequestHeaders:
    """Parse the headers; skip form fields, which TorchServe adds to them as dicts."""
    correlation_id, is_probe = None, False
    for name, value in headers.items():
        lower = name.lower()
        if lower == _CORRELATION and isinstance(value, str) and not correlation_id and _CORRELATION_ID.fullmatch(value):
            correlation_id = value
        elif lower == _PROBE and isinstance(value, str):
            is_probe = True
    return RequestHeaders(correlation_id, is_probe)
