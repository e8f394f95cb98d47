"""CPU time of TorchServe's workers, which shows whether requests are in progress (digits_client.wait_idle)."""

import time
from collections.abc import Iterable

import psutil

from digits_client.types import Version


def measure_activity(versions: Iterable[Version]) -> dict[str, float]:
    """Return the READY workers' CPU seconds by version; they differ between calls while a worker has a request."""
    return {
        version.version: sum(_measure_worker(worker.pid) for worker in version.workers if worker.status == "READY")
        for version in versions
    }


def _measure_worker(pid: int) -> float:
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return time.monotonic() if process.status() == psutil.STATUS_RUNNING else times.user + times.system
    except psutil.Error:  # it died: TorchServe has answered its requests with an error
        return 0.0
