"""Knows when TorchServe has answered all that it has received. It does not say so itself.

What is received is in a version's queue, waits up to its batch delay for company, or is in a worker's hands; a worker
that has something in hand uses the processor, for it has one thread and reads its pictures from memory.
"""

import time
from collections.abc import Callable, Iterable

import psutil

from serving.results import Version

IDLE_SECONDS = 0.3  # without work, over the batch delay, until nothing is taken to be under way
POLL_SECONDS = 0.05


def wait_idle(versions: Callable[[], Iterable[Version]], seconds: float, hurry: Callable[[], bool] = bool) -> bool:
    """Waits until nothing of these versions is under way; False if `seconds` pass, or `hurry` says so, first."""
    deadline = time.monotonic() + seconds
    idle_since = time.monotonic()
    before: dict[int, float] = {}
    while time.monotonic() < deadline and not hurry():
        listed = list(versions())
        work = _work(listed)
        if work != before or any(version.pending for version in listed):
            idle_since, before = time.monotonic(), work
        longest = max((version.max_batch_delay for version in listed), default=0) / 1000
        if time.monotonic() - idle_since > longest + IDLE_SECONDS:
            return True
        time.sleep(POLL_SECONDS)
    return False


def _work(versions: list[Version]) -> dict[int, float]:
    """Processor seconds of each READY worker so far; no two looks at a worker that is working give the same."""
    work = {}
    for worker in (each for version in versions for each in version.workers if each.status == "READY"):
        try:
            process = psutil.Process(worker.pid)
            times = process.cpu_times()
            running = process.status() == psutil.STATUS_RUNNING
        except psutil.Error:  # it died: what it had in hand has been answered with an error
            continue
        work[worker.pid] = time.monotonic() if running else times.user + times.system
    return work
