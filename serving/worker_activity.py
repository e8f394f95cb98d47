"""Detect whether TorchServe's workers are busy, from their CPU time and process status (digits_client.wait_idle)."""

import time
from collections.abc import Iterable

import psutil

from digits_client.types import Version


def measure_activity(versions: Iterable[Version]) -> dict[str, float]:
    """Return an activity counter by version, of its READY workers; it differs between calls while one has a request."""
    return {
        version.version: sum(_measure_worker(worker.pid) for worker in version.workers if worker.status == "READY")
        for version in versions
    }


def _measure_worker(pid: int) -> float:
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        # CPU seconds grow in coarse steps, so a running worker has the clock instead: any two readings of it differ.
        return time.monotonic() if process.status() == psutil.STATUS_RUNNING else times.user + times.system
    except psutil.Error:  # it died: TorchServe has answered its requests with an error
        return 0.0
