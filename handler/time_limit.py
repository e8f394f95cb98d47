"""A limit on the CPU time of a call: nobody foresees all that makes a decoder slow."""

import gc
import signal
from collections.abc import Callable
from types import FrameType
from typing import ParamSpec, TypeVar

AGAIN = 0.1  # s, after which it is raised once more where somebody has dropped it, as Python does in `__del__`

P = ParamSpec("P")
R = TypeVar("R")


class CpuLimitError(BaseException):
    """The time is up. No Exception: decoders of damaged files catch those, and would go on."""


class _Alarm:
    is_set = False


def _ring(_: int, frame: FrameType | None) -> None:
    """Raises within the call alone: not in the midst of `limited`, which must come to its end."""
    if _Alarm.is_set and frame is not None and frame.f_code is not run_with_cpu_limit.__code__:
        raise CpuLimitError


def run_with_cpu_limit(seconds: float, call: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
    """What the call returns; TooLongError once the process has spent that much CPU time in it.

    Raised between two steps of Python's, and in the main thread, where signals arrive and TorchServe calls handlers.
    """
    is_collecting = gc.isenabled()
    gc.disable()  # what is raised in a collector's callback is dropped
    signal.signal(signal.SIGPROF, _ring)  # stays: without it, one that comes late would end the process
    _Alarm.is_set = True
    signal.setitimer(signal.ITIMER_PROF, seconds, AGAIN)
    try:
        return call(*arguments, **options)
    finally:
        _Alarm.is_set = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        if is_collecting:
            gc.enable()
