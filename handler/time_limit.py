"""Limit a Python call's CPU time by SIGPROF; native code stops only when it returns to Python (format_limits.py)."""

import gc
import signal
from collections.abc import Callable
from types import FrameType
from typing import ParamSpec, TypeVar

REPEAT_SECONDS = 0.1  # until the error is raised again, as Python drops one that is raised within `__del__`

P = ParamSpec("P")
R = TypeVar("R")


class CpuLimitError(BaseException):
    """The CPU time is used up. Not an Exception: decoders of damaged files would catch it and go on."""


class _Alarm:
    is_set = False


def _raise_in_call(_: int, frame: FrameType | None) -> None:
    """Raise CpuLimitError within the limited call, not within `run_with_cpu_limit`, which must restore its settings."""
    if _Alarm.is_set and frame is not None and frame.f_code is not run_with_cpu_limit.__code__:
        raise CpuLimitError


def run_with_cpu_limit(seconds: float, call: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
    """Return what the call in the main thread returns; raise CpuLimitError after so much CPU time of the process."""
    is_collecting = gc.isenabled()
    gc.disable()  # an error that is raised in a garbage collector's callback is dropped
    signal.signal(signal.SIGPROF, _raise_in_call)  # stays: without it, a late signal would end the process
    _Alarm.is_set = True
    signal.setitimer(signal.ITIMER_PROF, seconds, REPEAT_SECONDS)
    try:
        return call(*arguments, **options)
    finally:
        _Alarm.is_set = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        if is_collecting:
            gc.enable()
