"""Processor time of TorchServe's workers, which tells whether requests are under way (digits_client.wait_idle)."""

import time
from collections.abc import Iterable

import psutil

from digits_client.types import Version


def measure_cpu_time(versions: Iterable[Version]) -> dict[str, float]:
    """Return processor seconds of the READY workers by version; they change between any two looks while one works.

    A worker has one thread and reads its images from memory, so it uses the processor while it has something in hand.
    """
    return {
        version.version: sum(
            _measure_worker_cpu_time(worker.pid) for worker in version.workers if worker.status == "READY"
        )
        for version in versions
    }


def _measure_worker_cpu_time(pid: int) -> float:
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return time.monotonic() if process.status() == psutil.STATUS_RUNNING else times.user + times.system
    except psutil.Error:  # it died: what it had in hand has been answered with an error
        return 0.0
