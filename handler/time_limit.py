"""A limit on the CPU time of a block of code: nobody foresees all that makes a decoder slow."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class TooLongError(BaseException):
    """The time is up. No Exception: decoders of damaged files catch those, and would go on."""


class _Alarm:
    is_set = False


def _ring(*_: Any) -> None:
    if _Alarm.is_set:
        _Alarm.is_set = False
        raise TooLongError


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raises TooLongError once the process has spent that much CPU time in the block, between two steps of Python's.

    For the main thread, where signals arrive, which is the one that TorchServe calls handlers in. Raised once: code
    that drops it, as Python does in `__del__`, has no limit any more.
    """
    signal.signal(signal.SIGPROF, _ring)  # stays: without it, one that comes late would end the process
    _Alarm.is_set = True
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        _Alarm.is_set = False
        signal.setitimer(signal.ITIMER_PROF, 0)
