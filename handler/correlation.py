"""Headers of requests: by which a sender knows an answer for its own, and by which a probe says that it is none.

Clients import this: no picture's library comes with it.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

CORRELATION = "X-Correlation-ID"
PROBE = "X-Digits-Probe"  # whatever its value: a picture that is sent to see whether it is read, and not counted
_CORRELATION, _PROBE = CORRELATION.lower(), PROBE.lower()
NAMES = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Marked(NamedTuple):
    """What a request's headers say of it: `correlation` is None where there is none, or none of NAMES."""

    correlation: str | None
    is_probe: bool


def marked(headers: Mapping[str, Any]) -> Marked:
    """By the headers alone: fields of forms, which are dicts among them, say nothing."""
    correlation, is_probe = None, False
    for name, value in headers.items():
        lower = name.lower()
        if lower == _CORRELATION and isinstance(value, str) and correlation is None and NAMES.fullmatch(value):
            correlation = value
        elif lower == _PROBE and isinstance(value, str):
            is_probe = True
    return Marked(correlation, is_probe)
