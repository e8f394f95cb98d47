"""Every name that crosses a process boundary: headers, environment variables, files of counted values, limits.

It imports nothing but Python's own modules, so clients and the supervisor may use it without a decoder or torch.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

CORRELATION_HEADER = "X-Correlation-ID"  # echoed, so that a client knows a response for its own
PROBE_HEADER = "X-Digits-Probe"  # whatever its value: a request that only checks the service, counted apart
REQUEST_LOG_PATH, REQUEST_LOG_LEVEL = "DIGITS_REQUEST_LOG", "DIGITS_REQUEST_LOG_LEVEL"  # environment of workers
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # environment of workers; prometheus_client's own name
WARNINGS = ("inverted", "several_marks", "faint", "touches_border", "low_resolution")  # of predictions
MAX_INSTANCES = 256  # images of one batch request

_CORRELATION_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CORRELATION, _PROBE = CORRELATION_HEADER.lower(), PROBE_HEADER.lower()


class RequestHeaders(NamedTuple):
    """What a request's headers say about it: `correlation_id` is None where there is none, or an invalid one."""

    correlation_id: str | None
    is_probe: bool


def parse_headers(headers: Mapping[str, Any]) -> RequestHeaders:
    """Read the headers alone: TorchServe mixes fields of forms among them, as dicts."""
    correlation_id, is_probe = None, False
    for name, value in headers.items():
        lower = name.lower()
        if lower == _CORRELATION and isinstance(value, str) and not correlation_id and _CORRELATION_ID.fullmatch(value):
            correlation_id = value
        elif lower == _PROBE and isinstance(value, str):
            is_probe = True
    return RequestHeaders(correlation_id, is_probe)
