"""Headers of requests: by which a sender knows an answer for its own, and by which a probe says that it is none.

Clients import this: no picture's library comes with it.
"""

import re
from collections.abc import Mapping
from typing import Any

CORRELATION = "X-Correlation-ID"
PROBE = "X-Digits-Probe"  # whatever its value: a picture that is sent to see whether it is read, and not counted
NAMES = re.compile(r"[A-Za-z0-9._-]{1,64}")


def correlation(headers: Mapping[str, Any]) -> str | None:
    """What the sender wants to know the row's answer by; None if nothing, or what is none of NAMES."""
    for name, value in headers.items():
        if name.lower() == CORRELATION.lower() and isinstance(value, str) and NAMES.fullmatch(value):
            return value
    return None


def is_probe(headers: Mapping[str, Any]) -> bool:
    """Whether its sender says so in a header; fields of forms, which are dicts, do not count."""
    return any(name.lower() == PROBE.lower() and isinstance(value, str) for name, value in headers.items())
